from collections import deque

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st
from pycocotools import mask as rle

from model.polygons import Ring, mask_to_rings, rings_to_mask
from model.structures import BoolMask

NO_LIMIT = 10**6

# pycocotools 2.0.11 decodes run lengths with an array protocol that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

masks = numpy_st.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))
steady = settings(max_examples=200, deadline=None, derandomize=True)


def fill_holes(mask: BoolMask) -> BoolMask:
    """All that the background cannot reach from outside by steps along rows and columns."""
    padded = np.pad(mask, 1)
    outside = np.zeros_like(padded)
    outside[0, 0] = True
    queue = deque([(0, 0)])
    while queue:
        y, x = queue.popleft()
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            within = 0 <= v < padded.shape[0] and 0 <= u < padded.shape[1]
            if within and not padded[v, u] and not outside[v, u]:
                outside[v, u] = True
                queue.append((v, u))
    return ~outside[1:-1, 1:-1]


def rasterise_by_coco(rings: list[Ring], height: int, width: int) -> BoolMask:
    if not rings:
        return np.zeros((height, width), dtype=np.bool_)
    flat = [ring.ravel().tolist() for ring in rings]
    return rle.decode(rle.merge(rle.frPyObjects(flat, height, width))).astype(np.bool_)


def rasterise_slowly(rings: list[Ring], height: int, width: int) -> BoolMask:
    """Count, for each pixel centre, the edges to its left; odd is inside."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for ring in rings:
        for y in range(height):
            for x in range(width):
                crossings = 0
                for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                    if (y0 <= y + 0.5) != (y1 <= y + 0.5):
                        at = x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0)
                        crossings += at <= x + 0.5
                mask[y, x] |= crossings % 2 == 1
    return mask


def area(ring: npt.NDArray[np.float64]) -> float:
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def iou(a: BoolMask, b: BoolMask) -> float:
    return float((a & b).sum() / (a | b).sum())


def drawn(picture: list[str]) -> BoolMask:
    return np.array([[pixel == "#" for pixel in row] for row in picture])


def blob(seed: int, height: int, width: int, smoothness: float) -> BoolMask:
    noise = np.random.default_rng(seed).random((height, width))
    return cv2.GaussianBlur(noise, (0, 0), smoothness) > 0.5


def star(spikes: int, inner: float, size: int = 160) -> BoolMask:
    angles = np.arange(2 * spikes) * np.pi / spikes
    radius = np.where(np.arange(2 * spikes) % 2, inner, 1) * size / 2
    corners = size / 2 + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return cv2.fillPoly(np.zeros((size, size), np.uint8), [corners.astype(np.int32)], 1) > 0


def line(x1: int, y1: int, thickness: int, size: int = 90) -> BoolMask:
    return cv2.line(np.zeros((size, size), np.uint8), (0, 0), (x1, y1), 1, thickness) > 0


SHAPES = {
    "disc": lambda: np.hypot(*np.mgrid[-60:61, -60:61]) < 60,
    "blob": lambda: blob(3, 150, 200, 12),
    "small blobs": lambda: blob(4, 60, 90, 4),
    "star": lambda: star(5, 0.4),
    "spikes": lambda: star(4, 0.06),
    "diagonal, one pixel": lambda: line(89, 89, 1),
    "steep, one pixel": lambda: line(40, 89, 1),
    "flat, two pixels": lambda: line(89, 30, 2),
    "comb": lambda: np.tile([True, False, False], (60, 20)) | (np.mgrid[:60, :60][0] < 3),
}


@steady
@given(masks)
def test_without_tolerance_cocos_rasteriser_gives_the_filled_mask_back(mask: BoolMask) -> None:
    rings = mask_to_rings(mask, tolerance_px=0, max_points=NO_LIMIT)

    assert (rasterise_by_coco(rings, *mask.shape) == fill_holes(mask)).all()
    assert (rings_to_mask(rings, *mask.shape) == fill_holes(mask)).all()


@pytest.mark.parametrize("seed", range(8))
def test_large_shapes_come_back_too(seed: int) -> None:
    mask = blob(seed, 140 + seed, 170, 1 + seed)

    rings = mask_to_rings(mask, tolerance_px=0, max_points=NO_LIMIT)

    assert (rasterise_by_coco(rings, *mask.shape) == fill_holes(mask)).all()


def test_a_lone_pixel_is_a_unit_square() -> None:
    (ring,) = mask_to_rings(drawn(["...", "..#"]), tolerance_px=0.75)

    assert sorted(ring.tolist()) == [[2, 1], [2, 2], [3, 1], [3, 2]]
    assert ring.dtype == np.float64


def test_a_full_frame_is_its_four_corners() -> None:
    (ring,) = mask_to_rings(np.ones((48, 64), np.bool_), tolerance_px=0.75)

    assert sorted(ring.tolist()) == [[0, 0], [0, 48], [64, 0], [64, 48]]


def test_a_line_of_pixels_is_a_thin_rectangle() -> None:
    (ring,) = mask_to_rings(np.ones((1, 50), np.bool_), tolerance_px=0.75)

    assert sorted(ring.tolist()) == [[0, 0], [0, 1], [50, 0], [50, 1]]


def test_pixels_that_touch_at_a_corner_share_a_ring() -> None:
    (ring,) = mask_to_rings(drawn(["#..", ".#.", "..#"]), tolerance_px=0)

    assert len(ring) == 12
    assert ring.tolist().count([1, 1]) == 2


def test_a_hole_is_filled_and_the_island_in_it_needs_no_ring() -> None:
    mask = drawn(["#####", "#...#", "#.#.#", "#...#", "#####"])

    (ring,) = mask_to_rings(mask, tolerance_px=0)

    assert sorted(ring.tolist()) == [[0, 0], [0, 5], [5, 0], [5, 5]]


def test_an_empty_mask_has_no_rings() -> None:
    assert mask_to_rings(np.zeros((4, 5), np.bool_), tolerance_px=0.75) == []
    assert mask_to_rings(np.zeros((0, 0), np.bool_), tolerance_px=0.75) == []


def test_a_window_into_a_larger_mask_is_accepted() -> None:
    frame = np.zeros((20, 30), np.bool_)
    frame[5:9, 10:16] = True

    for window in (frame[5:9, 10:16], frame.T[10:16, 5:9].T, frame[::-1, ::-1][11:15, 14:20]):
        (ring,) = mask_to_rings(window, tolerance_px=0.75)
        assert sorted(ring.tolist()) == [[0, 0], [0, 4], [6, 0], [6, 4]]


@steady
@given(masks, st.floats(0, 4), st.integers(3, 40))
def test_every_answer_keeps_the_promises_on_rings(
    mask: BoolMask, tolerance_px: float, max_points: int
) -> None:
    rings = mask_to_rings(mask, tolerance_px=tolerance_px, max_points=max_points)

    height, width = mask.shape
    areas = [area(ring) for ring in rings]
    assert sum(len(ring) for ring in rings) <= max_points
    assert all(len(ring) >= 3 for ring in rings)
    assert all((ring >= 0).all() and (ring <= (width, height)).all() for ring in rings)
    assert areas == sorted(areas, reverse=True)


@steady
@given(masks)
def test_a_ring_has_no_point_on_a_straight_line(mask: BoolMask) -> None:
    for ring in mask_to_rings(mask, tolerance_px=0, max_points=NO_LIMIT):
        step = np.roll(ring, -1, axis=0) - ring
        before = np.roll(step, 1, axis=0)

        assert (step[:, 0] * before[:, 0] + step[:, 1] * before[:, 1] == 0).all()


@pytest.mark.parametrize("name", SHAPES)
def test_simplified_rings_stay_close_to_the_filled_mask(name: str) -> None:
    mask = SHAPES[name]()

    rings = mask_to_rings(mask, tolerance_px=0.75)

    assert iou(rasterise_by_coco(rings, *mask.shape), fill_holes(mask)) >= 0.95
    exact = mask_to_rings(mask, tolerance_px=0, max_points=NO_LIMIT)
    assert sum(map(len, rings)) <= sum(map(len, exact))


def test_tolerance_thins_out_points() -> None:
    mask = SHAPES["disc"]()

    counts = [len(mask_to_rings(mask, tolerance_px=t)[0]) for t in (0, 0.75, 2)]

    assert counts[0] > 2 * counts[1] > 4 * counts[2]


def test_a_coarse_tolerance_does_not_lose_a_thin_object() -> None:
    mask = SHAPES["flat, two pixels"]()

    rings = mask_to_rings(mask, tolerance_px=50)

    assert iou(rasterise_by_coco(rings, *mask.shape), mask) >= 0.95


def test_specks_too_small_to_matter_are_dropped() -> None:
    mask = np.zeros((60, 80), np.bool_)
    mask[5:55, 5:55] = True
    mask[::6, 60::6] = True

    rings = mask_to_rings(mask, tolerance_px=0.75)

    assert [len(ring) for ring in rings] == [4]


def test_a_ragged_outline_is_simplified_until_its_points_fit() -> None:
    mask = blob(5, 200, 200, 2)
    needed = sum(map(len, mask_to_rings(mask, tolerance_px=0.75, max_points=NO_LIMIT)))

    rings = mask_to_rings(mask, tolerance_px=0.75, max_points=400)

    assert needed > 800
    assert 200 < sum(map(len, rings)) <= 400


def test_of_too_many_parts_the_largest_are_kept() -> None:
    mask = np.zeros((40, 420), np.bool_)
    for n in range(20):  # squares of side 1 to 20, in no order
        side = 1 + n * 7 % 20
        mask[:side, 21 * n : 21 * n + side] = True

    rings = mask_to_rings(mask, tolerance_px=0, max_points=20)

    assert [area(ring) for ring in rings] == [20**2, 19**2, 18**2, 17**2, 16**2]


def test_a_long_thin_part_counts_by_its_pixels() -> None:
    mask = np.zeros((20, 40), np.bool_)
    mask[2, :30] = True
    mask[10:15, 5:10] = True
    mask[10:16, 20:26] = True

    rings = mask_to_rings(mask, tolerance_px=0, max_points=8)

    assert [area(ring) for ring in rings] == [36, 30]


polygons = st.lists(
    numpy_st.arrays(
        np.float64, st.tuples(st.integers(3, 6), st.just(2)), elements=st.floats(-4, 14)
    ),
    max_size=3,
)


@steady
@given(polygons)
def test_rings_to_mask_takes_the_pixels_whose_centre_is_inside(rings: list[Ring]) -> None:
    assert (rings_to_mask(rings, 9, 10) == rasterise_slowly(rings, 9, 10)).all()


def test_rings_to_mask_joins_overlapping_rings() -> None:
    left = np.array([(0, 0), (0, 4), (3, 4), (3, 0)], np.float64)
    right = left + np.array((2, 0))

    mask = rings_to_mask([left, right], 4, 6)

    assert mask.sum() == 4 * 5
