"""What the stages hand each other.

Boxes are half-open xyxy everywhere in this project: pixel (x, y) lies inside when
``x1 <= x < x2`` and ``y1 <= y < y2``, so a box's width is ``x2 - x1`` and the box of a
mask is ``(first column, first row, last column + 1, last row + 1)``. This line is the
convention; every other file refers to it.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

BoolMask = npt.NDArray[np.bool_]
RGBImage = npt.NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How one image was placed on its canvas. Sizes are (height, width) in pixels."""

    original: tuple[int, int]
    resized: tuple[int, int]
    canvas: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images of one canvas, ready for the network."""

    pixels: Tensor  # (B, 3, H, W) float, normalised RGB; padding is 0
    geometries: tuple[Geometry, ...]  # B of them


@dataclass(frozen=True, slots=True)
class SOLOv2Output:
    """What the network says about a batch, before any threshold."""

    categories: tuple[Tensor, ...]  # one (B, C, S, S) of class logits per grid
    kernels: tuple[Tensor, ...]  # one (B, E, S, S) of dynamic 1x1 kernels per grid
    mask_feature: Tensor  # (B, E, h, w), never negative


@dataclass(frozen=True, slots=True)
class MaskCrops:
    """Masks of any sizes, eight pixels a byte: a hundred of a large photo fit in memory."""

    _packed: tuple[tuple[npt.NDArray[np.uint8], tuple[int, ...]], ...]  # bits and shape of each

    @classmethod
    def pack(cls, masks: Iterable[BoolMask]) -> Self:
        """Take in (h, w) masks one after the other; none is kept as it was."""
        return cls(tuple((np.packbits(mask), mask.shape) for mask in masks))

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: int) -> BoolMask:
        """Mask ``index`` as a new (h, w) array."""
        bits, shape = self._packed[index]
        return np.unpackbits(bits, count=math.prod(shape)).view(np.bool_).reshape(shape)

    def __iter__(self) -> Iterator[BoolMask]:
        return (self[index] for index in range(len(self)))

    def select(self, indices: Iterable[int]) -> Self:
        return type(self)(tuple(self._packed[index] for index in indices))


@dataclass(frozen=True, slots=True)
class Instances:
    """The N instances found in one image, best first, in that image's own pixels.

    Masks are kept as crops: ``masks[n]`` covers exactly ``boxes[n]``. An instance whose
    mask is empty has the box (0, 0, 0, 0) and a crop of shape (0, 0).
    """

    scores: npt.NDArray[np.float32]  # (N,) in [0, 1], descending
    labels: npt.NDArray[np.int64]  # (N,) index into the class names
    boxes: npt.NDArray[np.int64]  # (N, 4) half-open xyxy
    masks: MaskCrops  # N of them, (y2 - y1, x2 - x1) bool each
    height: int
    width: int

    def __post_init__(self) -> None:
        lengths = {len(self.scores), len(self.labels), len(self.boxes), len(self.masks)}
        if len(lengths) != 1:
            raise ValueError(f"instances need equally many of each field, got {sorted(lengths)}")

    @classmethod
    def from_full_masks(
        cls,
        scores: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        masks: BoolMask,
    ) -> Self:
        """Instances from (N, height, width) bool masks in the frame of their image."""
        boxes = np.array([tight_box(mask) for mask in masks], dtype=np.int64).reshape(-1, 4)
        crops = (mask[y1:y2, x1:x2] for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True))
        return cls(scores, labels, boxes, MaskCrops.pack(crops), *masks.shape[1:])

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, keep: npt.NDArray[np.bool_]) -> Self:
        """Those instances where ``keep``, an (N,) bool array, is true."""
        return type(self)(
            self.scores[keep],
            self.labels[keep],
            self.boxes[keep],
            self.masks.select(np.flatnonzero(keep)),
            self.height,
            self.width,
        )

    def full_masks(self) -> BoolMask:
        """(N, height, width) bool: every mask in the frame of its image."""
        full = np.zeros((len(self), self.height, self.width), dtype=np.bool_)
        for frame, (x1, y1, x2, y2), mask in zip(full, self.boxes, self.masks, strict=True):
            frame[y1:y2, x1:x2] = mask
        return full


def tight_box(mask: BoolMask) -> tuple[int, int, int, int]:
    """The half-open xyxy box of a (h, w) mask; (0, 0, 0, 0) for an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return (0, 0, 0, 0)
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
