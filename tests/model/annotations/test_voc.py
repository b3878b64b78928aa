from pathlib import Path

import numpy as np
import pytest
from annotated import (
    CORNER,
    HEIGHT,
    MASK,
    WIDTH,
    assert_as_wanted,
    coco_content,
    contents,
    save_coco,
    save_mask,
    voc_xml,
)
from PIL import Image

from model.annotations.coco import read_coco
from model.annotations.voc import read_voc, write_voc


def test_the_values_of_a_mask_are_the_objects_in_order(voc: Path) -> None:
    annotations = read_voc(voc)

    assert annotations.class_names == ("cat", "dog")
    assert_as_wanted(annotations)


def test_a_palette_is_no_colour(voc: Path) -> None:
    mask = Image.fromarray((CORNER * 1).astype(np.uint8), mode="L").convert("P")
    mask.save(voc / "segmentation-masks" / "b.png")

    assert_as_wanted(read_voc(voc))


def test_more_objects_than_a_byte_can_number_are_kept_apart(tmp_path: Path) -> None:
    content = coco_content()
    squares = [[x, y, x + 1, y, x + 1, y + 1, x, y + 1] for y in range(20) for x in range(15)]
    content["images"] = [{"id": 7, "file_name": "a.png", "height": 20, "width": 15}]
    content["annotations"] = [
        {"id": n, "image_id": 7, "category_id": 5, "segmentation": [square]}
        for n, square in enumerate(squares)
    ]
    images = read_coco(save_coco(tmp_path / "x.json", content)).images
    (tmp_path / "images").mkdir()

    write_voc(tmp_path, ((image, image.path) for image in images))

    [found] = contents(read_voc(tmp_path)).values()
    assert [np.argwhere(mask).tolist() for _, mask, _ in found] == [
        [[y, x]] for y in range(20) for x in range(15)
    ]


def test_what_was_written_reads_as_it_was(coco: Path, voc: Path) -> None:
    images = read_coco(coco).images
    for part in ("annotations", "segmentation-masks"):
        for file in (voc / part).iterdir():
            file.unlink()

    hidden = write_voc(voc, ((image, image.path) for image in images))

    assert hidden == []
    assert_as_wanted(read_voc(voc))
    assert "<xmin>2</xmin>" in (voc / "annotations" / "a.xml").read_text()


def test_the_smaller_of_two_objects_has_the_pixels_they_share(tmp_path: Path) -> None:
    content = coco_content()
    whole = [0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]
    content["annotations"][2] |= {"image_id": 7, "segmentation": [whole]}
    content["annotations"].append(content["annotations"][0] | {"id": 4})
    images = read_coco(save_coco(tmp_path / "x.json", content)).images[:1]

    [hidden] = write_voc(tmp_path, ((image, image.path) for image in images))

    assert hidden.place == "annotation 1"
    found = contents(read_voc(tmp_path))["a.png"]
    assert [mask.sum() for _, mask, _ in found] == [4, HEIGHT * WIDTH - 19, 15]
    assert np.array_equal(found[2][1], MASK)


@pytest.mark.parametrize(
    ("xml", "problem"),
    [
        (voc_xml("b.png", ("cat", 0), ("dog", 0)), "its mask shows 1 objects, 2 are described"),
        (voc_xml("", ("cat", 0)), "names no picture"),
        (voc_xml("b.png", ("", 0)), "an object has no name"),
        (voc_xml("b.png").replace("<width>8", "<width>0"), "tells no size"),
        (
            voc_xml("b.png", ("cat", 0)).replace("<width>8", "<width>9"),
            "8x6 pixels, the picture of 9x6",
        ),
        ("<annotation>", "no element found"),
    ],
)
def test_a_broken_file_is_named_and_the_others_are_read(voc: Path, xml: str, problem: str) -> None:
    (voc / "annotations" / "b.xml").write_text(xml)

    annotations = read_voc(voc)

    assert [image.path.name for image in annotations.images] == ["a.png"]
    assert problem in str(annotations.problems[0])
    assert annotations.problems[0].place == "b.xml"


def test_masks_of_colours_are_refused(voc: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(voc / "segmentation-masks" / "b.png")

    [problem] = read_voc(voc).problems

    assert "its mask has colours" in problem.text


def test_a_mask_that_is_missing_is_named(voc: Path) -> None:
    (voc / "segmentation-masks" / "b.png").unlink()

    [problem] = read_voc(voc).problems

    assert str(problem) == "b.xml: there is no mask b.png"


def test_a_picture_without_objects_needs_no_mask(voc: Path) -> None:
    (voc / "annotations" / "b.xml").write_text(voc_xml("b.png"))
    (voc / "segmentation-masks" / "b.png").unlink()

    annotations = read_voc(voc)

    assert annotations.problems == ()
    assert annotations.images[1].objects == ()


def test_a_picture_that_nothing_describes_is_noted(voc: Path) -> None:
    (voc / "annotations" / "b.xml").unlink()
    save_mask(voc / "images" / "c.png", CORNER)

    problems = read_voc(voc).problems

    assert [(problem.place, problem.fatal) for problem in problems] == [
        ("b.png", False),
        ("c.png", False),
    ]


def test_a_folder_without_files_is_refused(voc: Path) -> None:
    for file in (voc / "annotations").iterdir():
        file.unlink()

    with pytest.raises(ValueError, match="annotations has no XML file"):
        read_voc(voc)
