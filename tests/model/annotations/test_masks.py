from typing import Any

import numpy as np
import pytest
import torch
from annotated import HEIGHT, MASK, RING, WIDTH, uncompressed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as rle

from model.annotations.masks import decode_masks, encode_mask, faults, rings_of


@pytest.mark.parametrize(
    "segmentation",
    [[RING], uncompressed(MASK), encode_mask(MASK)],
    ids=["polygon", "uncompressed", "compressed"],
)
def test_every_form_of_segmentation_is_read(segmentation: Any) -> None:
    masks = decode_masks([segmentation], HEIGHT, WIDTH)

    assert masks.dtype == torch.bool
    assert np.array_equal(masks[0].numpy(), MASK)
    assert list(faults(segmentation, HEIGHT, WIDTH)) == []


def test_several_rings_make_one_mask() -> None:
    second = [0, 5, 1, 5, 1, 6, 0, 6]

    masks = decode_masks([[RING, second]], HEIGHT, WIDTH)

    assert masks.shape == (1, HEIGHT, WIDTH)
    assert masks.sum() == MASK.sum() + 1


def test_a_ring_of_two_points_is_no_area() -> None:
    masks = decode_masks([[[0, 5, 1, 6], RING], [[0, 5, 1, 6]], []], HEIGHT, WIDTH)

    assert np.array_equal(masks[0].numpy(), MASK)
    assert not masks[1:].any()


@given(arrays(bool, (7, 9)))
def test_rings_of_a_mask_draw_it_again(mask: Any) -> None:
    rings = rings_of(encode_mask(mask), 7, 9)

    again = decode_masks([rings], 7, 9)[0].numpy()

    assert np.array_equal(again, mask)


@given(arrays(bool, (40, 30), elements=st.booleans()))
def test_run_lengths_of_any_mask_are_found_sound(mask: Any) -> None:
    assert list(faults(encode_mask(mask), 40, 30)) == []


@pytest.mark.parametrize(
    ("segmentation", "text"),
    [
        ([], "has no segmentation"),
        (None, "has no segmentation"),
        ([[1, 2, 3, 4, 5]], "ring 1 has 5 numbers"),
        ([RING, ["a"] * 6], "ring 2 is no list of numbers"),
        ([[0, 0, 1, float("nan"), 1, 1]], "ring 1 is no list of numbers"),
        (RING, "ring 1 is no list of numbers"),
        ({"size": [WIDTH, HEIGHT], "counts": [48]}, "are for a size of [8, 6]"),
        ({"size": [HEIGHT, WIDTH], "counts": [40, 7]}, "do not add up to the 48 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": [50, -2]}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": "P1~"}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": "oooooooo"}, "do not add up"),
        ({"size": [HEIGHT, WIDTH]}, "do not add up"),
    ],
)
def test_what_cannot_be_drawn_is_told(segmentation: Any, text: str) -> None:
    [(found, fatal)] = faults(segmentation, HEIGHT, WIDTH)

    assert text in found
    assert fatal


def test_what_costs_little_is_no_reason_to_stop() -> None:
    segmentation = [[0, 0, 1, 1], [0, 0, WIDTH + 5, 0, 3, 3]]

    found = list(faults(segmentation, HEIGHT, WIDTH))

    assert found == [
        ("ring 1 has 2 points and is ignored", False),
        ("reaches 5 pixels out of the picture of 8x6", False),
    ]


def test_a_text_that_breaks_off_is_not_read_past_its_end() -> None:
    """Its last character announces another; the numbers before add up."""
    cut_off = encode_mask(MASK)["counts"] + "P"

    assert list(faults({"size": [HEIGHT, WIDTH], "counts": cut_off}, HEIGHT, WIDTH)) != []


def test_pycocotools_compresses_as_is_checked_here() -> None:
    """A long run needs several characters, and differences may be negative."""
    mask = np.zeros((300, 200), dtype=bool)
    mask[10:290:7, 5:150] = True

    encoded = encode_mask(mask)

    assert np.array_equal(rle.decode(encoded).astype(bool), mask)
    assert list(faults(encoded, 300, 200)) == []
    assert list(faults(encoded | {"counts": encoded["counts"][:-2]}, 300, 200)) != []
