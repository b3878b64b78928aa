from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import CORNER, HEIGHT, MASK, WIDTH, coco_content, draw_pictures, save_coco
from PIL import Image

from model.annotations.coco import read_coco
from model.training.dataset import AnnotatedDataset, Sample


def dataset(folder: Path, content: Any = None, **options: Any) -> AnnotatedDataset:
    """The two red pictures of ``annotated``: a dog and a crowd of cats, and a cat."""
    draw_pictures(folder)
    annotations = read_coco(save_coco(folder / "x.json", content or coco_content()))
    return AnnotatedDataset(annotations, **{"class_names": ("cat", "dog"), **options})


def test_a_sample_holds_rgb_pixels_masks_and_labels(tmp_path: Path) -> None:
    sample: Sample = dataset(tmp_path)[1]

    assert sample.labels.tolist() == [0]
    assert np.array_equal(sample.masks.numpy(), CORNER[None])
    assert sample.image.shape == (3, HEIGHT, WIDTH)
    assert sample.image[:, 0, 0].tolist() == [255, 0, 0]


def test_crowds_are_left_out(tmp_path: Path) -> None:
    sample = dataset(tmp_path)[0]

    assert sample.labels.tolist() == [1]
    assert np.array_equal(sample.masks.numpy(), MASK[None])


def test_labels_follow_the_class_names_asked_for(tmp_path: Path) -> None:
    assert dataset(tmp_path, class_names=["dog", "cat"])[1].labels.tolist() == [1]
    assert dataset(tmp_path, class_names=["dog"])[1].labels.tolist() == []


def test_a_picture_without_objects_is_a_sample_too(tmp_path: Path) -> None:
    sample = dataset(tmp_path, coco_content() | {"annotations": []})[0]

    assert sample.masks.shape == (0, HEIGHT, WIDTH)
    assert sample.labels.shape == (0,)


def test_a_broken_picture_is_an_error_that_names_it(tmp_path: Path) -> None:
    samples = dataset(tmp_path)
    (tmp_path / "a.png").write_bytes(b"not a picture")

    with pytest.raises(ValueError, match=r"cannot decode the image .*a\.png"):
        samples[0]


def test_a_missing_picture_is_an_error_that_names_it(tmp_path: Path) -> None:
    samples = dataset(tmp_path)
    (tmp_path / "a.png").unlink()

    with pytest.raises(ValueError, match=r"cannot read the image .*a\.png"):
        samples[0]


def test_a_picture_of_another_size_is_an_error(tmp_path: Path) -> None:
    samples = dataset(tmp_path)
    Image.new("RGB", (6, 8)).save(tmp_path / "a.png")

    with pytest.raises(ValueError, match=r"a\.png is 6x8 pixels, annotated as 8x6"):
        samples[0]


@pytest.mark.parametrize(("apply_exif", "size"), [(False, (6, 8)), (True, (8, 6))])
def test_exif_orientation_is_ignored_unless_asked_for(
    tmp_path: Path, apply_exif: bool, size: tuple[int, int]
) -> None:
    content = coco_content() | {"annotations": []}
    content["images"][0] |= {"file_name": "a.jpg", "height": size[0], "width": size[1]}
    samples = dataset(tmp_path, content, apply_exif=apply_exif)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)

    assert tuple(samples[0].image.shape[-2:]) == size


def test_wide_pictures_are_told_from_tall_ones(tmp_path: Path) -> None:
    content = coco_content() | {"annotations": []}
    content["images"][1]["height"] = 9

    assert dataset(tmp_path, content).landscape() == [True, False]
