import json

import cv2
import numpy as np
import pytest
import torch
from goldens import GOLDEN

from model.config import PreprocessConfig
from model.preprocess import fit_size, place, preprocess

TABLES = json.loads((GOLDEN / "unit_resize.json").read_text())["tables"]


@pytest.mark.parametrize("limits", TABLES)
def test_sizes_and_canvases_equal_the_originals(limits: str) -> None:
    a, b = json.loads(limits)
    config = PreprocessConfig(long_side=max(a, b), short_side=min(a, b))

    for width, height, new_width, new_height, pad_width, pad_height in TABLES[limits]:
        geometry = place(np.broadcast_to(np.uint8(0), (height, width, 3)), config)

        assert geometry.resized == (new_height, new_width)
        assert geometry.canvas == (pad_height, pad_width)


def test_a_strip_that_would_vanish_is_refused_with_its_size() -> None:
    with pytest.raises(ValueError, match="10x40000 pixels is too long and thin"):
        fit_size(40000, 10, PreprocessConfig())


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["grey", "alpha", "float", "no pixels"],
)
def test_what_is_no_rgb_picture_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected|no pixels"):
        preprocess([array], PreprocessConfig())


def test_pixels_are_resized_as_bytes_then_normalised_then_padded_with_zero() -> None:
    config = PreprocessConfig(mean=(10, 20, 30), std=(1, 2, 4), long_side=50, short_side=40)
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)

    batch = preprocess([image], config)

    resized = cv2.resize(image, (50, 25), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    expected = (resized - np.float32([10, 20, 30])) / np.float32([1, 2, 4])
    assert batch.pixels.shape == (1, 3, 32, 64)
    assert np.array_equal(batch.pixels[0, :, :25, :50].numpy(), expected.transpose(2, 0, 1))
    assert not batch.pixels[0, :, 25:].any()
    assert not batch.pixels[0, :, :, 50:].any()


def test_red_stays_the_first_channel() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[:, :, 0] = 255

    pixels = preprocess([red], PreprocessConfig(mean=(0, 0, 0), std=(1, 1, 1))).pixels

    assert pixels[0].amax((1, 2)).tolist() == [255, 0, 0]


def test_pictures_of_one_canvas_form_a_batch_with_each_its_own_geometry() -> None:
    config = PreprocessConfig(long_side=64, short_side=64)
    images = [np.zeros((60, 64, 3), np.uint8), np.zeros((128, 126, 3), np.uint8)]

    batch = preprocess(images, config)

    assert batch.pixels.shape == (2, 3, 64, 64)
    assert [g.resized for g in batch.geometries] == [(60, 64), (64, 63)]
    assert [g.original for g in batch.geometries] == [(60, 64), (128, 126)]
    assert torch.isfinite(batch.pixels).all()


def test_pictures_of_different_canvases_are_no_batch() -> None:
    images = [np.zeros((64, 64, 3), np.uint8), np.zeros((32, 64, 3), np.uint8)]

    with pytest.raises(ValueError, match="one batch needs one canvas"):
        preprocess(images, PreprocessConfig(long_side=64, short_side=64))
