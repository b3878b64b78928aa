"""Mask crops to polygons and back.

Coordinates are continuous: pixel i spans [i, i + 1], so rings run along the edges of
pixels and a lone pixel is a square of side 1. A pixel belongs to a ring that contains
its centre, which is how COCO's tools rasterise: they give the mask back.

A ring takes in its holes: it leaves for a hole along a straight line, a bridge, walks round
it the other way and returns along the same line. There and back cancel, whatever they cross,
under the even-odd and under the non-zero rule. So a mask is the plain union of its rings, and
nobody has to tell which of them are holes.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike

from model.structures import BoolMask

Ring = npt.NDArray[np.float64]  # (P, 2) corners x, y; the last joins the first
_IntArray = npt.NDArray[np.int64]
_IntRing = npt.NDArray[np.int32]  # as OpenCV takes them
_Number = TypeVar("_Number", bound=np.number)
_Part = list[_IntRing]  # an outer ring, then its holes, which turn the other way

# What simplification and filled holes must leave, measured between polygons. Rasterising adds
# an error of its own, up to 0.025 on small objects; all together stay above 0.95.
_MIN_IOU = 0.97
# What filled holes may take of that, as a share of the mask. The more they take, the less is
# left to simplification and the more points it needs.
_MAX_FILLED = 0.01
# A rectangle and its bridge. Holes that could not be sent all together are not looked at.
_POINTS_PER_HOLE = 6
# Below this a staircase of single pixels stays as it is, so halving on would change nothing.
_FINEST_TOLERANCE_PX = 0.3
# Small steps: near the tolerance where thin parts collapse, a tenth too much costs them.
_GROWTH = 1.1

# Corners of a pixel in the order a contour passes them with the outside on its right:
# down the left edge, along the bottom, up the right edge, back along the top.
_CORNERS = np.array([(0, 0), (0, 1), (1, 1), (1, 0)], dtype=np.int32)
# For each step to a neighbouring pixel, numbered as 3 * down + right + 4, where it arrives at the
# new pixel and leaves the old one. The middle stands for the step of a lone pixel to itself.
_CORNER_REACHED = np.array([2, 2, 1, 3, 0, 1, 3, 0, 0])
_CORNER_LEFT_FROM = np.array([0, 3, 3, 0, 0, 2, 1, 1, 2])
# For each step to a pixel (rows) and on from it (columns), how many of the corners passed after the
# one reached are turns: all, but not the last where the next pixel's first edge goes straight on.
_TURNS = (_CORNER_LEFT_FROM - _CORNER_REACHED[:, None] - 1) % 4 + (
    _CORNER_LEFT_FROM != (_CORNER_REACHED + 1) % 4
)


def mask_to_rings(mask: BoolMask, *, tolerance_px: float, max_points: int = 400) -> list[Ring]:
    """Outline a mask.

    Holes are cut out over bridges, which a ring walks there and back; the smallest, as many as
    hold 1 % of the mask together, are filled. What lies inside a filled hole needs no ring.
    Pixels that touch at a corner belong together. Parts and holes too small to keep three
    corners are dropped.

    Args:
        mask: (h, w), any crop.
        tolerance_px: How far a simplified ring may pass from the pixel edges; 0 keeps every
            corner. Lowered for an instance that would lose over 3 % of its area, filled holes
            included, as thin ones do, and raised for one that would need too many points.
        max_points: Most points of all rings together, bridges included, at least 3.

    Returns:
        Rings of (P, 2) x, y relative to the crop, P >= 3, the largest area without holes first.
    """
    if not mask.any():
        return []
    exact, filled = _trace(mask, max_points)
    tolerance = tolerance_px
    parts = _simplify(exact, tolerance)
    while tolerance > 0 and _iou(parts, exact) < _MIN_IOU + filled:
        tolerance = tolerance / 2 if tolerance > _FINEST_TOLERANCE_PX else 0
        parts = _simplify(exact, tolerance)
    if _count_points(parts) > max_points:
        parts = _simplify_to(parts, tolerance, max_points)
    rings = sorted(map(_cut_holes, parts), key=_area, reverse=True)
    return [ring.astype(np.float64) for ring in rings]


def rings_to_mask(rings: Sequence[Ring], height: int, width: int) -> BoolMask:
    """(height, width): the pixels whose centre lies inside any of the rings."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for ring in rings:
        _, rows, x, _ = _crossings([ring])
        columns = np.ceil(x - 0.5).astype(np.int64).clip(0)  # the first right of the crossing
        inside = (rows >= 0) & (rows < height) & (columns < width)
        flips = np.zeros((height, width), dtype=np.uint8)
        np.add.at(flips, (rows[inside], columns[inside]), 1)
        mask |= np.bitwise_xor.accumulate(flips & 1, axis=1).view(np.bool_)
    return mask


def _trace(mask: BoolMask, max_points: int) -> tuple[list[_Part], float]:
    """Every corner of the parts, and at most what share of them is holes that were filled.

    OpenCV takes the square of the number of holes; the cells of a network bound it.
    """
    borders, hierarchy = cv2.findContours(mask.view(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    parents = hierarchy[0, :, 3].tolist()  # of each border the one around it, or -1; those first
    holes = _holes(borders, parents)
    pixels = int(np.count_nonzero(mask))
    filled = _small_holes(holes, pixels, most=max_points // _POINTS_PER_HOLE)
    share = sum(holes.values()) / (pixels + sum(holes.values()))
    # No more parts than could be sent, so that a mask of specks costs no more than others.
    parts = _parts(borders, parents, holes, filled, most=max_points // 3)
    return parts, min(share, _MAX_FILLED)


def _holes(borders: Sequence[MatLike], parents: list[int]) -> dict[int, int]:
    """Index of each border that surrounds a hole -> pixels of it, those of its islands left out."""
    holes: dict[int, int] = {}
    for n, parent in enumerate(parents):
        if parent in holes:  # what lies in a hole is an island
            holes[parent] -= _enclosed_pixels(borders[n])
        elif parent >= 0:
            holes[n] = _enclosed_pixels(borders[n]) - len(borders[n])
    return holes


def _enclosed_pixels(border: MatLike) -> int:
    """Pick's theorem: the pixels on and within the chain that joins their centres."""
    return int(cv2.contourArea(border) + len(border) / 2 + 1)  # 1.5 for a lone pixel: no step


def _small_holes(holes: dict[int, int], pixels: int, *, most: int) -> set[int]:
    """The smallest holes, until ``most`` are left that are large enough to matter."""
    smallest_first = sorted(holes, key=lambda n: holes[n])
    sizes = np.array([holes[n] for n in smallest_first])
    count = np.searchsorted(np.cumsum(sizes), _MAX_FILLED * pixels, side="right")
    return set(smallest_first[: max(int(count), len(holes) - most)])


def _parts(
    borders: Sequence[MatLike],
    parents: list[int],
    holes: dict[int, int],
    filled: set[int],
    *,
    most: int,
) -> list[_Part]:
    """The ``most`` largest outer borders as rings, each with those of its holes.

    What lies inside a filled hole is gone with it.
    """
    gone = set(filled)
    for n, parent in enumerate(parents):
        if parent in gone:
            gone.add(n)
    outer = [n for n in range(len(parents)) if n not in holes and n not in gone]
    largest = sorted(outer, key=lambda n: -_enclosed_pixels(borders[n]))[:most]
    parts: dict[int, _Part] = {n: [] for n in largest}
    within = [n for n in holes if n not in gone and parents[n] in parts]
    outer_of = largest + [parents[n] for n in within]
    rings = _edge_rings([borders[n] for n in largest + within])
    for n, ring in zip(outer_of, rings, strict=True):
        parts[n].append(ring)
    return list(parts.values())


def _edge_rings(borders: Sequence[MatLike]) -> list[_IntRing]:
    """Turn chains of border pixels into the corners of the edges that they pass.

    OpenCV joins pixel centres. Each of them is passed on its outer side, from the corner where the
    step to it arrives to the corner where the next step leaves. All chains are turned at once.
    """
    ends = np.cumsum([len(border) for border in borders])
    points = np.concatenate([border[:, 0] for border in borders])
    right, down = (_after(points, ends) - points).T
    on = 3 * down + right + 4
    to = _before(on, ends)
    turns = _TURNS[to, on]

    pixel, nth = _expand(turns)
    corner = (_CORNER_REACHED[to[pixel]] + 1 + nth) % 4
    ring = points[pixel] + _CORNERS[corner]
    return np.split(ring, np.cumsum(turns)[ends[:-1] - 1])


def _after(values: npt.NDArray[_Number], ends: _IntArray) -> npt.NDArray[_Number]:
    """Of rings laid end to end, ``ends`` one past the last each: the next value of each."""
    result = np.empty_like(values)
    result[:-1] = values[1:]
    result[ends - 1] = values[ends - np.diff(ends, prepend=0)]
    return result


def _before(values: npt.NDArray[_Number], ends: _IntArray) -> npt.NDArray[_Number]:
    """The value before each."""
    result = np.empty_like(values)
    result[1:] = values[:-1]
    result[ends - np.diff(ends, prepend=0)] = values[ends - 1]
    return result


def _expand(counts: _IntArray) -> tuple[_IntArray, _IntArray]:
    """Index n repeated ``counts[n]`` times, and 0, 1, 2 ... within each repetition."""
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - (np.cumsum(counts) - counts)[index]


def _simplify(exact: list[_Part], tolerance: float) -> list[_Part]:
    """Douglas-Peucker on each ring; one that collapses is dropped, an outer one with holes."""
    if tolerance <= 0:
        return exact
    parts = [
        [
            cv2.approxPolyDP(ring, tolerance, closed=True)[:, 0].astype(np.int32, copy=False)
            for ring in part
        ]
        for part in exact
    ]
    return [[ring for ring in part if len(ring) >= 3] for part in parts if len(part[0]) >= 3]


def _simplify_to(parts: list[_Part], tolerance: float, max_points: int) -> list[_Part]:
    """At the first tolerance, of growing ones, with so few points; they are searched by halving.

    ``parts`` are what ``tolerance`` left: Douglas-Peucker keeps of them about what it would keep of
    all.
    """
    start = max(tolerance, _FINEST_TOLERANCE_PX / _GROWTH)

    def grown(steps: int) -> list[_Part]:
        return _simplify(parts, start * _GROWTH**steps)

    # Twice the tolerance leaves about half the points: a first guess.
    many, few = 0, math.ceil(math.log(_count_points(parts) / max_points, _GROWTH))
    while _count_points(grown(few)) > max_points:
        many, few = few, 2 * few
    while few - many > 1:
        middle = (few + many) // 2
        if _count_points(grown(middle)) > max_points:
            many = middle
        else:
            few = middle
    return grown(few)


def _count_points(parts: list[_Part]) -> int:
    """Of all rings, with the two that each bridge adds."""
    return sum(sum(map(len, part)) + 2 * (len(part) - 1) for part in parts)


def _cut_holes(part: _Part) -> _IntRing:
    """One ring that takes in the holes, each over a bridge between the nearest corners."""
    ring, *holes = part
    for hole in holes:
        apart_x, apart_y = (
            np.subtract.outer(ring[:, n], hole[:, n].astype(np.int64)) for n in (0, 1)
        )
        squared = apart_x**2 + apart_y**2
        leave, arrive = np.unravel_index(squared.argmin(), squared.shape)
        round_hole = np.roll(hole, -arrive, axis=0)
        if squared.min() == 0:  # they touch
            ring = np.concatenate([ring[:leave], round_hole, ring[leave:]])
        else:
            back = round_hole[:1]
            ring = np.concatenate([ring[: leave + 1], round_hole, back, ring[leave:]])
    return ring


def _area(ring: _IntRing) -> float:
    return cv2.contourArea(ring)


def _iou(parts: list[_Part], exact: list[_Part]) -> float:
    """IoU of two sets of rings along the centre lines of the rows, without drawing them.

    Both sets cross the centre line of each pixel row; from left to right along it, the
    running difference of the two tells where one covers and the other does not.
    """
    edges, rows, x, signs = _crossings([*chain(*exact), *chain(*parts)])
    of_exact = edges < sum(map(len, chain(*exact)))
    order = np.argsort(rows * (x.max() + 1) + x)
    difference = np.cumsum(np.where(of_exact, signs, -signs)[order])[:-1]  # 0 where a row ends
    differing = np.abs(difference * np.diff(x[order])).sum()
    total = -(signs * x).sum()  # a ring goes down its left side and up its right side
    return float((total - differing) / (total + differing))


def _crossings(
    rings: Sequence[npt.NDArray[np.number]],
) -> tuple[_IntArray, _IntArray, npt.NDArray[np.float64], _IntArray]:
    """Where rings cross the centre line of a pixel row.

    Returns:
        (K,) each: the edge, counted through all rings, the row, the x, and +1 where the edge
        goes down or -1 where it goes up.
    """
    ends = np.cumsum([len(ring) for ring in rings if len(ring) > 0], dtype=np.int64)
    points = np.concatenate([*rings, np.empty((0, 2), dtype=np.int32)])
    above = np.ceil(points[:, 1] - 0.5).astype(np.int64)  # centre lines above a point
    climb = _after(above, ends) - above
    (crossing,) = np.nonzero(climb)
    climb = climb[crossing]
    down = climb > 0
    # Both ways of a bridge are computed from its upper end: to cancel they must agree exactly.
    one, other = points[crossing], _after(points, ends)[crossing]
    upper, lower = (np.where(down[:, None], *pair) for pair in ((one, other), (other, one)))
    first = above[crossing] + np.minimum(climb, 0)
    edge, nth = _expand(np.abs(climb))
    rows = first[edge] + nth
    run, rise = (lower - upper)[edge].T
    x = upper[edge, 0] + (rows + 0.5 - upper[edge, 1]) * run / rise
    return crossing[edge], rows, x, np.where(down, 1, -1)[edge]
