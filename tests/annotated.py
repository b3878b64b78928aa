"""One small data set in each format: two pictures, three objects, one of them a crowd."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from model.annotations.annotated import AnnotationSet
from model.annotations.masks import decode_masks

HEIGHT, WIDTH = 6, 8
RING = [2.0, 1.0, 7.0, 1.0, 7.0, 4.0, 2.0, 4.0]
SECOND = [0.0, 4.0, 2.0, 4.0, 2.0, 6.0, 0.0, 6.0]
MASK = np.zeros((HEIGHT, WIDTH), dtype=bool)
MASK[1:4, 2:7] = True
CORNER = np.zeros((HEIGHT, WIDTH), dtype=bool)
CORNER[4:6, 0:2] = True

#: File name -> (label, mask, crowd) of its objects.
WANTED = {
    "a.png": [("dog", MASK, False), ("cat", CORNER, True)],
    "b.png": [("cat", CORNER, False)],
}


def uncompressed(mask: Any) -> dict[str, Any]:
    """Run lengths down the columns, starting with the zeros."""
    counts, value, run = [], 0, 0
    for pixel in mask.astype(int).T.ravel().tolist():
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    return {"size": list(mask.shape), "counts": [*counts, run]}


def contents(annotations: AnnotationSet) -> dict[str, list[tuple[str, Any, bool]]]:
    """In the form of ``WANTED``."""
    return {
        image.path.name: [
            (
                item.label,
                decode_masks([item.segmentation], image.height, image.width)[0].numpy(),
                item.crowd,
            )
            for item in image.objects
        ]
        for image in annotations.images
    }


def assert_as_wanted(annotations: AnnotationSet) -> None:
    assert annotations.problems == ()
    found = contents(annotations)
    assert found.keys() == WANTED.keys()
    for name, objects in WANTED.items():
        assert [(label, crowd) for label, _, crowd in found[name]] == [
            (label, crowd) for label, _, crowd in objects
        ]
        for (_, mask, _), (_, wanted, _) in zip(found[name], objects, strict=True):
            assert np.array_equal(mask, wanted)
    assert all(image.path.is_file() for image in annotations.images)


def draw_pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in WANTED:
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(folder / name)


def coco_content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
            {"id": 9, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "segmentation": [RING]},
            {
                "id": 2,
                "image_id": 7,
                "category_id": 5,
                "segmentation": uncompressed(CORNER),
                "iscrowd": 1,
            },
            {"id": 3, "image_id": 9, "category_id": 5, "segmentation": [SECOND]},
        ],
    }


def save_coco(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def azure_lines() -> list[dict[str, Any]]:
    def fractions(ring: list[float]) -> list[float]:
        return [value / (HEIGHT if n % 2 else WIDTH) for n, value in enumerate(ring)]

    return [
        {
            "image_url": "azureml://subscriptions/1/datastores/x/paths/fridge/images/a.png",
            "image_details": {"format": "png", "width": "8px", "height": 6},
            "label": [
                {"label": "dog", "isCrowd": 0, "polygon": [fractions(RING)]},
                {"label": "cat", "isCrowd": 1, "polygon": [fractions(SECOND)]},
            ],
        },
        {
            "image_url": "images/b.png",
            "label": [{"label": "cat", "polygon": [fractions(SECOND)]}],
        },
    ]


def save_lines(path: Path, lines: list[Any]) -> None:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")


VOC_XML = """<annotation>
  <folder>images</folder><filename>{name}</filename>
  <size><width>8</width><height>6</height><depth>3</depth></size>
  {objects}
</annotation>"""


def voc_xml(name: str, *objects: tuple[str, int]) -> str:
    return VOC_XML.format(
        name=name,
        objects="".join(
            f"<object><name>{label}</name><difficult>{difficult}</difficult></object>"
            for label, difficult in objects
        ),
    )


def save_mask(path: Path, numbers: Any) -> None:
    Image.fromarray(numbers.astype(np.uint8)).save(path)
