import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from model.training.dataset import CocoDataset, decode_masks

MASK = np.zeros((6, 8), dtype=np.uint8)
MASK[1:4, 2:7] = 1
POLYGON = [[2, 1, 7, 1, 7, 4, 2, 4]]


def uncompressed(mask: Any) -> dict[str, Any]:
    """Run lengths down the columns, starting with the zeros."""
    counts, value, run = [], 0, 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    return {"size": list(mask.shape), "counts": [*counts, run]}


def compressed(mask: Any) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def coco(folder: Path, annotations: list[dict[str, Any]], **image: Any) -> Path:
    """A data set of one 8x6 picture."""
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 6, "width": 8, **image}],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"image_id": 7, **a} for a in annotations],
    }
    pixels = np.zeros((6, 8, 3), dtype=np.uint8)
    pixels[:, :, 2] = 200  # red, in OpenCV's order
    cv2.imwrite(str(folder / "a.png"), pixels)
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "segmentation",
    [POLYGON, uncompressed(MASK), compressed(MASK)],
    ids=["polygon", "uncompressed", "compressed"],
)
def test_every_form_of_segmentation_is_read(segmentation: Any) -> None:
    masks = decode_masks([segmentation], 6, 8)

    assert masks.dtype == torch.bool
    assert np.array_equal(masks[0].numpy(), MASK.astype(bool))


def test_several_rings_make_one_mask() -> None:
    second = [0, 5, 1, 5, 1, 6, 0, 6]

    masks = decode_masks([[*POLYGON, second]], 6, 8)

    assert masks.shape == (1, 6, 8)
    assert masks.sum() == MASK.sum() + 1


def test_a_ring_of_two_points_is_no_area() -> None:
    masks = decode_masks([[[0, 5, 1, 6], *POLYGON], [[0, 5, 1, 6]], []], 6, 8)

    assert np.array_equal(masks[0].numpy(), MASK.astype(bool))
    assert not masks[1:].any()


def test_a_sample_holds_rgb_pixels_masks_and_labels_in_category_order(tmp_path: Path) -> None:
    annotations = coco(
        tmp_path,
        [
            {"category_id": 2, "segmentation": POLYGON},
            {"category_id": 5, "segmentation": compressed(MASK)},
        ],
    )

    dataset = CocoDataset(tmp_path, annotations)
    sample = dataset[0]

    assert dataset.class_names == ("cat", "dog")
    assert sample.labels.tolist() == [1, 0]
    assert sample.masks.shape == (2, 6, 8)
    assert sample.image.shape == (3, 6, 8)
    assert sample.image[:, 0, 0].tolist() == [200, 0, 0]


def test_crowds_are_left_out(tmp_path: Path) -> None:
    crowd = {"category_id": 2, "segmentation": uncompressed(MASK), "iscrowd": 1}
    annotations = coco(tmp_path, [crowd, {"category_id": 5, "segmentation": POLYGON}])

    assert CocoDataset(tmp_path, annotations)[0].labels.tolist() == [0]


def test_labels_follow_the_class_names_asked_for(tmp_path: Path) -> None:
    annotations = coco(
        tmp_path,
        [{"category_id": 2, "segmentation": POLYGON}, {"category_id": 5, "segmentation": POLYGON}],
    )

    assert CocoDataset(tmp_path, annotations, class_names=["dog"])[0].labels.tolist() == [0]
    both = CocoDataset(tmp_path, annotations, class_names=["dog", "cat"])
    assert both[0].labels.tolist() == [0, 1]


def test_a_picture_without_objects_is_a_sample_too(tmp_path: Path) -> None:
    sample = CocoDataset(tmp_path, coco(tmp_path, []))[0]

    assert sample.masks.shape == (0, 6, 8)
    assert sample.labels.shape == (0,)


def test_a_class_without_category_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no category bird"):
        CocoDataset(tmp_path, coco(tmp_path, []), class_names=["cat", "bird"])


def test_a_file_that_is_no_annotation_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("[]")

    with pytest.raises(ValueError, match=r"other\.json is no COCO annotation file"):
        CocoDataset(tmp_path, path)


def test_a_broken_picture_is_an_error_that_names_it(tmp_path: Path) -> None:
    dataset = CocoDataset(tmp_path, coco(tmp_path, []))
    (tmp_path / "a.png").write_bytes(b"not a picture")

    with pytest.raises(ValueError, match=r"cannot decode the image .*a\.png"):
        dataset[0]


def test_a_missing_picture_is_an_error_that_names_it(tmp_path: Path) -> None:
    dataset = CocoDataset(tmp_path, coco(tmp_path, []))
    (tmp_path / "a.png").unlink()

    with pytest.raises(ValueError, match=r"cannot read the image .*a\.png"):
        dataset[0]


def test_a_picture_of_another_size_is_an_error(tmp_path: Path) -> None:
    dataset = CocoDataset(tmp_path, coco(tmp_path, [], height=8, width=6))

    with pytest.raises(ValueError, match=r"a\.png is 8x6 pixels, annotated as 6x8"):
        dataset[0]


@pytest.mark.parametrize(("apply_exif", "size"), [(False, (6, 8)), (True, (8, 6))])
def test_exif_orientation_is_ignored_unless_asked_for(
    tmp_path: Path, apply_exif: bool, size: tuple[int, int]
) -> None:
    height, width = size
    annotations = coco(tmp_path, [], file_name="a.jpg", height=height, width=width)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)

    sample = CocoDataset(tmp_path, annotations, apply_exif=apply_exif)[0]

    assert tuple(sample.image.shape[-2:]) == size


def test_wide_pictures_are_told_from_tall_ones(tmp_path: Path) -> None:
    assert CocoDataset(tmp_path, coco(tmp_path, [])).landscape() == [True]
    assert CocoDataset(tmp_path, coco(tmp_path, [], height=9)).landscape() == [False]
