"""COCO's two forms of a segmentation: rings and run lengths."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor

from model.annotations.annotated import Segmentation
from model.polygons import mask_to_rings
from model.structures import BoolMask

_EXACT_POINTS = 100_000  # of one object


def decode_masks(segmentations: Sequence[Segmentation], height: int, width: int) -> Tensor:
    """COCO's ``segmentation`` of N objects -> (N, height, width) bool."""
    masks = torch.zeros((len(segmentations), height, width), dtype=torch.bool)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        mask.copy_(torch.from_numpy(rle.decode(run_lengths(segmentation, height, width))))
    return masks


def run_lengths(segmentation: Segmentation, height: int, width: int) -> Mapping[str, Any]:
    """Compressed run lengths from rings, uncompressed or compressed run lengths."""
    if not isinstance(segmentation, Mapping):
        # pycocotools takes rings of two points for boxes.
        rings = [ring for ring in segmentation if len(ring) >= 6]
        if not rings:
            return encode_mask(np.zeros((height, width), dtype=np.bool_))
        return rle.merge(rle.frPyObjects(rings, height, width))
    if isinstance(segmentation["counts"], list):
        return rle.frPyObjects(segmentation, height, width)
    return segmentation


def encode_mask(mask: BoolMask) -> Mapping[str, Any]:
    """(height, width) -> compressed run lengths, as text that JSON can hold."""
    encoded = rle.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def rings_of(segmentation: Segmentation, height: int, width: int) -> list[list[float]]:
    """Rings as they are, or those along the pixel edges of a mask; its holes are cut in."""
    if not isinstance(segmentation, Mapping):
        return [list(ring) for ring in segmentation if len(ring) >= 6]
    mask = rle.decode(run_lengths(segmentation, height, width)).view(np.bool_)
    if not mask.any():
        return []
    rings = mask_to_rings(mask, tolerance_px=0, max_points=_EXACT_POINTS)
    return [np.asarray(ring, dtype=float).ravel().tolist() for ring in rings]


def faults(segmentation: object, height: int, width: int) -> Iterator[tuple[str, bool]]:
    """What is wrong with a segmentation, and whether that makes it unusable."""
    if isinstance(segmentation, Mapping):
        yield from _run_length_faults(segmentation, height, width)
    elif isinstance(segmentation, list | tuple) and segmentation:
        yield from _ring_faults(segmentation, height, width)
    else:
        yield "has no segmentation", True


def _ring_faults(rings: Sequence[object], height: int, width: int) -> Iterator[tuple[str, bool]]:
    outside = 0.0
    for n, ring in enumerate(rings, start=1):
        if not isinstance(ring, list | tuple) or not all(map(_is_number, ring)):
            yield f"ring {n} is no list of numbers", True
            return
        if len(ring) % 2:
            yield f"ring {n} has {len(ring)} numbers, which are no pairs of x and y", True
            return
        if len(ring) < 6:
            yield f"ring {n} has {len(ring) // 2} points and is ignored", False
            continue
        xs, ys = ring[::2], ring[1::2]
        outside = max(outside, -min(xs), -min(ys), max(xs) - width, max(ys) - height)
    if outside > 1:
        yield f"reaches {outside:.0f} pixels out of the picture of {width}x{height}", False


def _run_length_faults(
    segmentation: Mapping[Any, Any], height: int, width: int
) -> Iterator[tuple[str, bool]]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        yield f"its run lengths are for a size of {size}, the picture's is {[height, width]}", True
        return
    if isinstance(counts, str | bytes):
        counts = _decompress(counts)
    whole = isinstance(counts, list) and all(isinstance(c, int) and c >= 0 for c in counts)
    if not whole or sum(counts or ()) != height * width:
        yield f"its run lengths do not add up to the {height * width} pixels of the picture", True


def _decompress(text: str | bytes) -> list[int] | None:
    """The run lengths in COCO's compressed text; None where it breaks off.

    Each is a number of six-bit characters of which five count, the lowest first, and from the
    third on the difference to the last but one. pycocotools trusts such texts blindly.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for code in text.encode() if isinstance(text, str) else text:
        bits = code - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    return None if shift else counts


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
