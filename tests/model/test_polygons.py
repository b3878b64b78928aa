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


def only_tiny_holes_are_filled(came_back: BoolMask, mask: BoolMask) -> bool:
    """Holes of at most 1 % of the mask together may be filled, all else must agree."""
    differ = came_back != mask
    in_holes = fill_holes(mask) & ~mask
    return bool((differ <= in_holes).all() and differ.sum() <= mask.sum() / 100)


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


def windings(rings: list[Ring], height: int, width: int) -> npt.NDArray[np.int64]:
    """How often each ring goes round each pixel centre: (rings, height, width)."""
    y, x = np.mgrid[:height, :width] + 0.5
    count = np.zeros((len(rings), height, width), dtype=np.int64)
    for of_ring, ring in zip(count, rings, strict=True):
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            down = int(np.sign(y1 - y0))
            to_the_left = down * ((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) > 0
            of_ring += down * (to_the_left & ((y0 <= y) != (y1 <= y)))
    return count


def area(ring: npt.NDArray[np.float64]) -> float:
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def iou(a: BoolMask, b: BoolMask) -> float:
    return float((a & b).sum() / (a | b).sum())


def drawn(picture: list[str]) -> BoolMask:
    return np.array([[pixel == "#" for pixel in row] for row in picture])


def blob(
    seed: int, height: int, width: int, smoothness: float, share: float | None = None
) -> BoolMask:
    """Hills above the mean, or those that cover ``share`` of the picture."""
    noise = np.random.default_rng(seed).random((height, width))
    hills = cv2.GaussianBlur(noise, (0, 0), smoothness)
    return hills > (0.5 if share is None else np.quantile(hills, 1 - share))


def disc(radius: float, size: int = 121) -> BoolMask:
    y, x = np.mgrid[:size, :size] - size // 2
    return np.hypot(y, x) < radius


def star(spikes: int, inner: float, size: int = 160) -> BoolMask:
    angles = np.arange(2 * spikes) * np.pi / spikes
    radius = np.where(np.arange(2 * spikes) % 2, inner, 1) * size / 2
    corners = size / 2 + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return cv2.fillPoly(np.zeros((size, size), np.uint8), [corners.astype(np.int32)], 1) > 0


def line(x1: int, y1: int, thickness: int, size: int = 90) -> BoolMask:
    return cv2.line(np.zeros((size, size), np.uint8), (0, 0), (x1, y1), 1, thickness) > 0


TILE = np.ones((20, 20), np.uint8)
SHAPES = {
    "disc": lambda: disc(60),
    "blob": lambda: blob(3, 150, 200, 12),
    "small blobs": lambda: blob(4, 60, 90, 4),
    "star": lambda: star(5, 0.4),
    "spikes": lambda: star(4, 0.06),
    "diagonal, one pixel": lambda: line(89, 89, 1),
    "steep, one pixel": lambda: line(40, 89, 1),
    "flat, two pixels": lambda: line(89, 30, 2),
    "annulus": lambda: disc(60) & ~disc(30),
    "thin annulus": lambda: disc(60) & ~disc(58),
    "annulus with an island": lambda: (disc(60) & ~disc(45)) | disc(20),
    "holes that touch": lambda: np.kron(np.pad([[0, 1], [1, 0]], 1, constant_values=1), TILE) > 0,
    "blob with holes": lambda: blob(3, 150, 200, 7, share=0.8),
    "comb": lambda: np.tile([True, False, False], (60, 20)) | (np.mgrid[:60, :60][0] < 3),
}


@steady
@given(masks)
def test_without_tolerance_cocos_rasteriser_gives_the_mask_back(mask: BoolMask) -> None:
    rings = mask_to_rings(mask, tolerance_px=0, max_points=NO_LIMIT)

    assert only_tiny_holes_are_filled(rasterise_by_coco(rings, *mask.shape), mask)
    assert only_tiny_holes_are_filled(rings_to_mask(rings, *mask.shape), mask)


@pytest.mark.parametrize("share", [0.5, 0.75, 0.95])
@pytest.mark.parametrize("seed", range(8))
def test_large_shapes_come_back_too(seed: int, share: float) -> None:
    mask = blob(seed, 140 + seed, 170, 1 + seed, share)

    rings = mask_to_rings(mask, tolerance_px=0, max_points=NO_LIMIT)

    came_back = rasterise_by_coco(rings, *mask.shape)
    assert only_tiny_holes_are_filled(came_back, mask)
    assert (rings_to_mask(rings, *mask.shape) == came_back).all()


@steady
@given(masks)
def test_even_odd_and_non_zero_filling_agree(mask: BoolMask) -> None:
    turns = windings(mask_to_rings(mask, tolerance_px=0, max_points=NO_LIMIT), *mask.shape)

    assert np.isin(np.abs(turns), (0, 1)).all()
    assert only_tiny_holes_are_filled((turns != 0).any(0), mask)


@pytest.mark.parametrize("name", ["annulus", "annulus with an island", "holes that touch"])
def test_opencv_fills_the_same_pixels(name: str) -> None:
    mask = SHAPES[name]()
    picture = np.zeros(np.multiply(mask.shape, 8), np.uint8)

    for ring in mask_to_rings(mask, tolerance_px=0, max_points=NO_LIMIT):
        cv2.fillPoly(picture, [(8 * ring).astype(np.int32)], 1)

    assert (picture[4::8, 4::8] == mask).all()


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


def test_a_hole_is_cut_out_over_a_bridge_there_and_back() -> None:
    mask = drawn(["......", ".####.", ".#..#.", ".####."])

    (ring,) = mask_to_rings(mask, tolerance_px=0)

    corners = [(1, 1), (1, 4), (5, 4), (5, 1), (2, 2), (2, 3), (4, 3), (4, 2)]
    twice = {corner for corner in corners if ring.tolist().count(list(corner)) == 2}
    assert len(ring) == 4 + 4 + 2
    assert set(map(tuple, ring.tolist())) == set(corners)
    assert len(twice) == 2
    assert np.abs(np.subtract(*twice)).tolist() == [1, 1]  # nearest corners


def test_two_holes_share_a_ring() -> None:
    mask = drawn(["#########", "#..###..#", "#..###..#", "#########"])

    (ring,) = mask_to_rings(mask, tolerance_px=0)

    assert len(ring) == 4 + 2 * (4 + 2)
    assert (rasterise_by_coco([ring], *mask.shape) == mask).all()


def test_an_island_in_a_hole_has_its_own_ring() -> None:
    mask = drawn(["#####", "#...#", "#.#.#", "#...#", "#####"])

    outer, island = mask_to_rings(mask, tolerance_px=0)

    assert sorted(island.tolist()) == [[2, 2], [2, 3], [3, 2], [3, 3]]
    assert (rasterise_by_coco([outer, island], *mask.shape) == mask).all()


def test_an_island_larger_than_the_frame_round_it_comes_first() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[[0, -1]] = mask[:, [0, -1]] = True
    mask[3:17, 3:17] = True

    island, frame = mask_to_rings(mask, tolerance_px=0.75)

    assert (area(island), area(frame)) == (14**2, 20**2 - 18**2)


def test_a_hole_that_touches_the_border_at_a_corner_needs_no_bridge() -> None:
    mask = drawn([".####", "#.###", "#####", "#####"])

    (ring,) = mask_to_rings(mask, tolerance_px=0)

    assert len(ring) == 6 + 4
    assert (ring != np.roll(ring, -1, axis=0)).any(1).all()
    assert (rasterise_by_coco([ring], *mask.shape) == mask).all()


def test_holes_too_small_to_matter_are_filled_with_what_is_in_them() -> None:
    mask = np.ones((60, 60), np.bool_)
    mask[10:13, 10:13] = False
    mask[11, 11] = True
    mask[30:34, 30:36] = False

    (ring,) = mask_to_rings(mask, tolerance_px=0.75)

    assert sorted(ring.tolist()) == [[0, 0], [0, 60], [60, 0], [60, 60]]


def test_the_largest_holes_are_cut_out_and_tiny_ones_beside_them_filled() -> None:
    solid = np.ones((60, 60), np.bool_)
    solid[0, 0] = False
    solid[20:40, 20:40] = False
    mask = solid.copy()
    mask[5, 5:50:5] = False
    mask[1, 1] = False  # touches the outside at a corner

    (ring,) = mask_to_rings(mask, tolerance_px=0)

    assert len(ring) == 6 + 4 + 2
    assert (rasterise_by_coco([ring], *mask.shape) == solid).all()


def test_many_tiny_holes_matter_together() -> None:
    mask = np.ones((60, 60), np.bool_)
    mask[5:55:5, 5:55:5] = False

    (ring,) = mask_to_rings(mask, tolerance_px=0, max_points=NO_LIMIT)

    filled = rasterise_by_coco([ring], *mask.shape) & ~mask
    assert filled.sum() == 35  # of 100 holes; one more would be over 1 % of 3500 pixels


def test_a_hole_that_simplifies_to_nothing_adds_no_points() -> None:
    mask = np.ones((60, 60), np.bool_)
    mask[20:40, 20:40] = False
    mask[5:15:5, 5:55:2] = False

    (ring,) = mask_to_rings(mask, tolerance_px=0.75)

    assert len(ring) == 4 + 4 + 2


def test_more_holes_than_can_be_sent_ask_for_no_finer_outline() -> None:
    whole = disc(60)
    mask = whole.copy()
    mask[::5, ::5] = False

    points = [len(mask_to_rings(m, tolerance_px=0.75, max_points=100)[0]) for m in (whole, mask)]

    assert fill_holes(mask).sum() > 1.02 * mask.sum()
    assert points[0] == points[1] < 90


def test_lone_pixels_are_not_taken_for_holes() -> None:
    whole = disc(13.5)
    specked = whole.copy()
    specked[:3:2, ::4] = True

    points = [len(mask_to_rings(mask, tolerance_px=0.7)[0]) for mask in (whole, specked)]

    assert points[0] == points[1] < len(mask_to_rings(whole, tolerance_px=0)[0])


def test_filled_holes_leave_less_to_simplification() -> None:
    whole = disc(30)
    pricked = whole.copy()
    pricked[60:65, 60:65] = False

    (round_whole,), (round_pricked,) = (
        mask_to_rings(mask, tolerance_px=2) for mask in (whole, pricked)
    )

    assert fill_holes(pricked).sum() == whole.sum()
    assert len(round_whole) < len(round_pricked) < len(mask_to_rings(whole, tolerance_px=0)[0])


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
    for ring in mask_to_rings(fill_holes(mask), tolerance_px=0, max_points=NO_LIMIT):
        step = np.roll(ring, -1, axis=0) - ring
        before = np.roll(step, 1, axis=0)

        assert (step[:, 0] * before[:, 0] + step[:, 1] * before[:, 1] == 0).all()


@pytest.mark.parametrize("name", SHAPES)
def test_simplified_rings_stay_close_to_the_mask(name: str) -> None:
    mask = SHAPES[name]()

    rings = mask_to_rings(mask, tolerance_px=0.75)

    assert iou(rasterise_by_coco(rings, *mask.shape), mask) >= 0.95
    assert iou(rings_to_mask(rings, *mask.shape), mask) >= 0.95
    exact = mask_to_rings(mask, tolerance_px=0, max_points=NO_LIMIT)
    assert sum(map(len, rings)) <= sum(map(len, exact))


@pytest.mark.parametrize("share", [0.65, 0.8, 0.95])
@pytest.mark.parametrize("seed", range(10))
def test_blobs_with_holes_stay_close_to_the_mask(seed: int, share: float) -> None:
    mask = blob(seed, 100 + 7 * seed, 120, 6, share)

    rings = mask_to_rings(mask, tolerance_px=0.75)
    turns = windings(rings, *mask.shape)

    assert (fill_holes(mask) != mask).any()
    assert iou(rasterise_by_coco(rings, *mask.shape), mask) >= 0.95
    assert iou((turns % 2 == 1).any(0), (turns != 0).any(0)) >= 0.999


def test_tolerance_thins_out_points() -> None:
    mask = SHAPES["disc"]()

    counts = [len(mask_to_rings(mask, tolerance_px=t)[0]) for t in (0, 0.75, 2)]

    assert counts[0] > 2 * counts[1] > 4 * counts[2]


def test_a_coarse_tolerance_does_not_lose_a_thin_object() -> None:
    mask = SHAPES["flat, two pixels"]()

    rings = mask_to_rings(mask, tolerance_px=50)

    assert iou(rasterise_by_coco(rings, *mask.shape), mask) >= 0.95


def test_lines_that_cross_few_rows_are_not_lost() -> None:
    mask = np.zeros((2000, 640), np.bool_)
    mask[:, 20:23] = True  # a mast
    columns = np.arange(600)
    for top in range(100, 1900, 75):
        mask[top + columns * 4 // 600, 20 + columns] = True

    rings = mask_to_rings(mask, tolerance_px=0.75)

    assert iou(rasterise_by_coco(rings, *mask.shape), mask) >= 0.95


def test_an_object_far_below_the_top_of_its_crop_is_outlined() -> None:
    mask = np.zeros((4000, 100), np.bool_)
    mask[3901:3911, 10:50] = True

    [ring] = mask_to_rings(mask, tolerance_px=0.75)

    assert (ring.min(0).tolist(), ring.max(0).tolist()) == ([10, 3901], [50, 3911])


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


def test_of_too_many_holes_the_largest_are_kept() -> None:
    mask = np.ones((30, 420), np.bool_)
    for n in range(20):  # squares of side 1 to 20, in no order
        side = 1 + n * 7 % 20
        mask[5 : 5 + side, 21 * n + 1 : 21 * n + 1 + side] = False

    (ring,) = mask_to_rings(mask, tolerance_px=0, max_points=28)

    assert len(ring) == 4 + 4 * (4 + 2)
    assert area(ring) == mask.size - 20**2 - 19**2 - 18**2 - 17**2


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


def test_a_ring_without_points_covers_nothing() -> None:
    square = np.array([(1, 1), (1, 3), (3, 3), (3, 1)], dtype=float)

    alone = rings_to_mask([np.empty((0, 2))], 4, 4)
    beside = rings_to_mask([np.empty((0, 2)), square], 4, 4)

    assert not alone.any()
    assert beside.sum() == 4


def test_rings_to_mask_joins_overlapping_rings() -> None:
    left = np.array([(0, 0), (0, 4), (3, 4), (3, 0)], np.float64)
    right = left + np.array((2, 0))

    mask = rings_to_mask([left, right], 4, 6)

    assert mask.sum() == 4 * 5


@steady
@given(numpy_st.arrays(np.float64, (2,), elements=st.floats(-4, 4)))
def test_rings_to_mask_sees_no_line_that_is_walked_there_and_back(reach: Ring) -> None:
    centre = np.array((4.5, 4.5))

    mask = rings_to_mask([np.stack([centre - reach, centre + reach])], 9, 9)

    assert not mask.any()
