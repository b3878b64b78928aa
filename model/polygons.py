"""Mask crops to polygons and back.

Coordinates are continuous: pixel i spans [i, i + 1], so rings run along the edges of
pixels and a lone pixel is a square of side 1. A pixel belongs to a ring that contains
its centre, which is how COCO's tools rasterise: they give the mask back.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from model.structures import BoolMask

Ring = npt.NDArray[np.float64]  # (P, 2) corners x, y; the last joins the first
_IntArray = npt.NDArray[np.int64]

# What simplification must keep, measured between polygons. Rasterising adds an error of its
# own, up to 0.025 on small objects; the two together stay above 0.95.
_MIN_IOU = 0.97
# Below this a staircase of single pixels stays as it is, so halving on would change nothing.
_FINEST_TOLERANCE_PX = 0.3
# Small steps: near the tolerance where thin parts collapse, a tenth too much costs them.
_GROWTH = 1.1

# Corners of a pixel in the order a contour passes them with the outside on its right:
# down the left edge, along the bottom, up the right edge, back along the top.
_CORNERS = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
# Rows: a step up, level, down. Columns: left, straight, right. Standing still (the middle)
# happens for a lone pixel only and means all the way round.
_CORNER_REACHED = np.array([(2, 2, 1), (3, 0, 1), (3, 0, 0)])
_CORNER_LEFT_FROM = np.array([(0, 3, 3), (0, 0, 2), (1, 1, 2)])


def mask_to_rings(mask: BoolMask, *, tolerance_px: float, max_points: int = 400) -> list[Ring]:
    """Outline a mask.

    Holes are filled: only outer borders are traced, and what lies inside a hole needs no ring
    of its own. Pixels that touch at a corner belong together. Parts too small to keep three
    corners are dropped.

    Args:
        mask: (h, w), any crop.
        tolerance_px: How far a simplified ring may pass from the pixel edges; 0 keeps every
            corner. Lowered for an instance that would lose over 3 % of its area, as thin
            ones do, and raised for one that would need too many points.
        max_points: Most points of all rings together, at least 3.

    Returns:
        Rings of (P, 2) x, y relative to the crop, P >= 3, the largest area first.
    """
    if not mask.any():
        return []
    # No more rings than could be sent, so that a mask of specks costs no more than others.
    exact = _outer_rings(mask, most=max_points // 3)
    tolerance = tolerance_px
    rings = _simplify(exact, tolerance)
    while tolerance > 0 and _iou(rings, exact) < _MIN_IOU:
        tolerance = tolerance / 2 if tolerance > _FINEST_TOLERANCE_PX else 0
        rings = _simplify(exact, tolerance)
    while sum(map(len, rings)) > max_points:
        tolerance = max(_GROWTH * tolerance, _FINEST_TOLERANCE_PX)
        rings = _simplify(exact, tolerance)
    return [ring.astype(np.float64) for ring in rings]


def rings_to_mask(rings: Sequence[Ring], height: int, width: int) -> BoolMask:
    """(height, width): the pixels whose centre lies inside any of the rings."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for ring in rings:
        rows, x, _ = _crossings([ring])
        columns = np.ceil(x - 0.5).astype(np.int64).clip(0)  # the first right of the crossing
        inside = (rows >= 0) & (rows < height) & (columns < width)
        flips = np.zeros((height, width), dtype=np.uint8)
        np.add.at(flips, (rows[inside], columns[inside]), 1)
        mask |= np.bitwise_xor.accumulate(flips & 1, axis=1).view(np.bool_)
    return mask


def _outer_rings(mask: BoolMask, *, most: int) -> list[_IntArray]:
    """Every corner of the outer borders, the largest area first."""
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # Pick's theorem: the pixels on and within the chain that joins their centres.
    largest = sorted(contours, key=lambda c: -(cv2.contourArea(c) + len(c) / 2 + 1))
    return [_edge_ring(contour[:, 0].astype(np.int64)) for contour in largest[:most]]


def _edge_ring(pixels: _IntArray) -> _IntArray:
    """Turn a chain of border pixels into the corners of the edges that it passes.

    OpenCV joins pixel centres. Each of them is passed on its outer side, from the corner
    where the step to it arrives to the corner where the next step leaves.
    """
    steps = np.roll(pixels, -1, axis=0) - pixels + 1  # 0, 1 or 2 in x and y
    leaves = _CORNER_LEFT_FROM[steps[:, 1], steps[:, 0]]
    reached = np.roll(_CORNER_REACHED[steps[:, 1], steps[:, 0]], 1)
    passed = (leaves - reached - 1) % 4 + 1

    owner, nth = _expand(passed)
    ring = pixels[owner] + _CORNERS[(reached[owner] + 1 + nth) % 4]
    heading = np.roll(ring, -1, axis=0) - ring
    turns = (heading != np.roll(heading, 1, axis=0)).any(1)
    return ring[turns]


def _expand(counts: _IntArray) -> tuple[_IntArray, _IntArray]:
    """Index n repeated ``counts[n]`` times, and 0, 1, 2 ... within each repetition."""
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - (np.cumsum(counts) - counts)[index]


def _simplify(exact: list[_IntArray], tolerance: float) -> list[_IntArray]:
    """Douglas-Peucker on each ring; those that collapse are dropped."""
    if tolerance <= 0:
        return exact
    rings = [
        cv2.approxPolyDP(ring.astype(np.int32), tolerance, closed=True)[:, 0].astype(np.int64)
        for ring in exact
    ]
    return sorted((ring for ring in rings if len(ring) >= 3), key=_area, reverse=True)


def _area(ring: _IntArray) -> float:
    return cv2.contourArea(ring.astype(np.int32))


def _iou(rings: list[_IntArray], exact: list[_IntArray]) -> float:
    """IoU of two sets of rings along the centre lines of the rows, without drawing them.

    Both sets cross the centre line of each pixel row; from left to right along it, the
    running difference of the two tells where one covers and the other does not.
    """
    rows, x, signs = _crossings([*exact, *rings])
    of_exact = np.arange(len(rows)) < len(_crossings(exact)[0])
    order = np.lexsort((x, rows))
    difference = np.cumsum(np.where(of_exact, signs, -signs)[order])[:-1]  # 0 where a row ends
    differing = np.abs(difference * np.diff(x[order])).sum()
    total = -(signs * x).sum()  # a ring goes down its left side and up its right side
    return float((total - differing) / (total + differing))


def _crossings(
    rings: Sequence[npt.NDArray[np.number]],
) -> tuple[_IntArray, npt.NDArray[np.float64], _IntArray]:
    """Where rings cross the centre line of a pixel row.

    Returns:
        (K,) each: the row, the x, and +1 where the ring goes down or -1 where it goes up.
    """
    start = np.concatenate([*rings, np.empty((0, 2))])
    end = np.concatenate([*(np.roll(ring, -1, axis=0) for ring in rings), np.empty((0, 2))])
    first = np.ceil(start[:, 1] - 0.5).astype(np.int64)
    last = np.ceil(end[:, 1] - 0.5).astype(np.int64)

    edge, nth = _expand(np.abs(last - first))
    rows = np.minimum(first, last)[edge] + nth
    run, rise = (end - start)[edge].T
    x = start[edge, 0] + (rows + 0.5 - start[edge, 1]) * run / rise
    return rows, x, np.sign(last - first)[edge]
