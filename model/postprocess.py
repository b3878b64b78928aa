"""Raw network output -> instances (mmdet SOLOV2Head.predict_by_feat, in its exact order).

What differs from the original is the cost, not the result. Candidates that share a grid cell share
its mask, so one dynamic convolution serves them all. Masks of different classes are never compared.
And no mask is ever made in the size of its image: only the part of the frame where a mask can
exceed the threshold is upsampled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import InferenceConfig
from model.matrix_nms import matrix_nms
from model.structures import BoolMask, Geometry, Instances, MaskCrops, SOLOv2Output

MASK_STRIDE = 4
LEVEL_STRIDES = (8, 8, 16, 32, 32)  # a cell's mask needs more stride-4 pixels than this
CHUNK_ELEMENTS = 1 << 22  # mask probabilities held at a time: 16 MiB of float32
_BLOCK_ELEMENTS = (
    1 << 16
)  # pixels upsampled at a time: 256 KiB of float32, which a core's cache holds

_FloatArray = npt.NDArray[np.float32]
_IntArray = npt.NDArray[np.int64]


def postprocess(
    output: SOLOv2Output, geometries: Sequence[Geometry], config: InferenceConfig
) -> list[Instances]:
    """One ``Instances`` per image of the batch, in the pixels of the original images."""
    scores = torch.cat(
        [_cells_first(points_nms(level.float().sigmoid())) for level in output.categories], dim=1
    )  # (B, cells, C)
    kernels = torch.cat([_cells_first(level) for level in output.kernels], dim=1)
    strides = torch.cat(
        [
            torch.full((level.shape[-1] ** 2,), float(stride), device=scores.device)
            for level, stride in zip(output.categories, LEVEL_STRIDES, strict=True)
        ]
    )
    images = zip(scores, kernels, output.mask_feature, geometries, strict=True)
    return [
        _image_instances(image_scores, image_kernels, mask_feature, strides, geometry, config)
        for image_scores, image_kernels, mask_feature, geometry in images
    ]


def points_nms(scores: Tensor) -> Tensor:
    """Zero each score that its upper, left or upper-left neighbour exceeds.

    (B, C, S, S) -> same. The window is the original's: 2x2, not centred; ties survive.
    """
    best = F.max_pool2d(scores, kernel_size=2, stride=1, padding=1)[:, :, :-1, :-1]
    return scores * (best == scores)


def _cells_first(level: Tensor) -> Tensor:
    """(B, c, S, S) -> (B, S*S, c), cells row by row."""
    return level.flatten(2).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class _CellMasks:
    """The masks of M distinct grid cells at stride 4."""

    binary: Tensor  # (M, h, w) bool
    area: Tensor  # (M,) float, pixels
    maskness: Tensor  # (M,) float, mean probability inside the mask


def _image_instances(
    scores: Tensor,
    kernels: Tensor,
    mask_feature: Tensor,
    strides: Tensor,
    geometry: Geometry,
    config: InferenceConfig,
) -> Instances:
    cell, label = (scores > config.candidate_threshold).nonzero(as_tuple=True)
    cells, mask_of = torch.unique(cell, return_inverse=True)
    masks = _cell_masks(kernels[cells], mask_feature, config.mask_threshold)

    large = masks.area[mask_of] > strides[cell]
    cell, label, mask_of = cell[large], label[large], mask_of[large]
    rescored = scores[cell, label] * masks.maskness[mask_of]

    rescored, order = rescored.sort(descending=True)
    rescored, order = (x[: config.candidates_before_nms] for x in (rescored, order))
    cell, label, mask_of = cell[order], label[order], mask_of[order]
    decayed = matrix_nms(
        masks.binary[mask_of], label, rescored, kernel=config.nms_kernel, sigma=config.nms_sigma
    )

    above = (decayed >= config.score_threshold).nonzero()[:, 0]
    final, order = decayed[above].sort(descending=True)
    keep = above[order][: config.max_instances]
    boxes, crops = _mask_crops(
        kernels[cell[keep]],
        mask_feature,
        masks.binary[mask_of[keep]],
        geometry,
        config.mask_threshold,
    )
    return Instances(
        scores=final[: config.max_instances].cpu().numpy(),
        labels=label[keep].cpu().numpy(),
        boxes=boxes,
        masks=crops,
        height=geometry.original[0],
        width=geometry.original[1],
    )


def _mask_probabilities(kernels: Tensor, mask_feature: Tensor) -> Tensor:
    """(M, E) kernels, M >= 1, on (E, h, w) -> (M, h, w) float32 probabilities."""
    weight = kernels[:, :, None, None].to(mask_feature.dtype)
    return F.conv2d(mask_feature[None], weight)[0].float().sigmoid_()


def _chunks(count: int, mask_feature: Tensor) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // mask_feature[0].numel())
    return [slice(start, start + size) for start in range(0, count, size)]


def _cell_masks(kernels: Tensor, mask_feature: Tensor, threshold: float) -> _CellMasks:
    count, device = len(kernels), kernels.device
    binary = torch.empty((count, *mask_feature.shape[1:]), dtype=torch.bool, device=device)
    area, maskness = (torch.empty(count, device=device) for _ in range(2))
    for chunk in _chunks(count, mask_feature):
        probability = _mask_probabilities(kernels[chunk], mask_feature)
        inside = F.threshold(probability, threshold, 0.0, inplace=True)
        total = inside.sum((1, 2))
        # Sums of floats are vectorised, those of bools are not: 0 stays 0, all others become 1.
        area[chunk] = inside.ceil_().sum((1, 2))
        binary[chunk] = inside > 0
        # An empty mask has maskness 0/0; its area keeps it from going any further.
        maskness[chunk] = total / area[chunk]
    return _CellMasks(binary, area, maskness)


def _mask_crops(
    kernels: Tensor, mask_feature: Tensor, binary: Tensor, geometry: Geometry, threshold: float
) -> tuple[npt.NDArray[np.int64], MaskCrops]:
    """The (N, h, w) stride-4 masks of these (N, E) kernels as (N, 4) boxes and crops."""
    height, width = mask_feature.shape[1:]
    rows = _Axis.compose(height, geometry.resized[0], geometry.original[0])
    columns = _Axis.compose(width, geometry.resized[1], geometry.original[1])
    extents = zip(_extent(binary.any(2)), _extent(binary.any(1)), strict=True)
    boxes = np.zeros((len(kernels), 4), dtype=np.int64)

    def crops() -> Iterator[BoolMask]:
        for chunk in _chunks(len(kernels), mask_feature):
            probabilities = _mask_probabilities(kernels[chunk], mask_feature).cpu().numpy()
            for box, probability in zip(boxes[chunk], probabilities, strict=True):
                box[:], mask = _crop(probability, rows, columns, *next(extents), threshold)
                yield mask

    return boxes, MaskCrops.pack(crops())


def _extent(occupied: Tensor) -> list[tuple[int, int]]:
    """(N, n) bool, each row with a true -> first true and one past the last true."""
    occupied = occupied.to(torch.uint8)
    first = occupied.argmax(1)
    end = occupied.shape[1] - occupied.flip(1).argmax(1)
    return list(zip(first.tolist(), end.tolist(), strict=True))


def _crop(
    probability: _FloatArray,
    rows: "_Axis",
    columns: "_Axis",
    row_extent: tuple[int, int],
    column_extent: tuple[int, int],
    threshold: float,
) -> tuple[tuple[int, int, int, int], BoolMask]:
    """Upsample the part of one (h, w) mask that matters; tighten it to its exact box."""
    y, x = rows.reach(*row_extent), columns.reach(*column_extent)
    mask = np.empty((y.stop - y.start, x.stop - x.start), dtype=np.bool_)
    wide = np.ascontiguousarray(columns.resize(probability.T, x).T)  # (h, pixels)
    step = max(1, _BLOCK_ELEMENTS // max(1, mask.shape[1]))
    for start in range(y.start, y.stop, step):
        block = slice(start, min(start + step, y.stop))
        mask[start - y.start : block.stop - y.start] = rows.resize(wide, block) > threshold
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(ys) == 0:
        return (0, 0, 0, 0), np.zeros((0, 0), dtype=np.bool_)
    top, bottom, left, right = int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1
    box = (x.start + left, y.start + top, x.start + right, y.start + bottom)
    return box, mask[top:bottom, left:right]


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of the way from stride-4 cells to image pixels.

    The original upsamples by four, cuts the padding off, then resizes to the image. Both resizes
    are bilinear, and each is separable, so this axis is two weighted sums of two lines each.
    """

    fine: "_Taps"  # cells -> pixels of the canvas
    pixel: "_Taps"  # pixels of the resized image -> pixels of the original
    first: _IntArray  # (pixels,) lowest cell that a pixel reads
    last: _IntArray  # (pixels,) highest such cell

    @classmethod
    def compose(cls, cells: int, resized: int, original: int) -> "_Axis":
        fine = _Taps.bilinear(cells, cells * MASK_STRIDE)
        pixel = _Taps.bilinear(resized, original)
        return cls(fine, pixel, fine.low[pixel.low], fine.high[pixel.high])

    def reach(self, start: int, end: int) -> slice:
        """Pixels that cells ``start`` to ``end - 1`` can colour; none if they lie in padding."""
        first = int(np.searchsorted(self.last, start))
        return slice(first, max(first, int(np.searchsorted(self.first, end))))

    def resize(self, lines: _FloatArray, pixels: slice) -> _FloatArray:
        """(cells, n) -> (pixels, n), those pixels alone."""
        if pixels.start == pixels.stop:
            return lines[:0]
        fine = slice(self.pixel.low[pixels.start], self.pixel.high[pixels.stop - 1] + 1)
        return self.pixel.blend(self.fine.blend(lines, fine), pixels, offset=fine.start)


@dataclass(frozen=True, slots=True)
class _Taps:
    """The two samples that each target of ``F.interpolate(align_corners=False)`` blends."""

    low: _IntArray  # (targets,) index of the lower sample
    high: _IntArray  # (targets,)
    share: _FloatArray  # (targets,) of the upper sample, the lower has the rest

    @classmethod
    def bilinear(cls, size: int, target: int) -> "_Taps":
        source = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * np.float32(size / target)
        source = (source - np.float32(0.5)).clip(0)
        low = source.astype(np.int64).clip(max=size - 1)
        return cls(low, (low + 1).clip(max=size - 1), (source - low).astype(np.float32).clip(max=1))

    def blend(self, lines: _FloatArray, targets: slice, *, offset: int = 0) -> _FloatArray:
        """(sizes, n), whose first line is sample ``offset`` -> (targets, n)."""
        share = self.share[targets, None]
        low = lines[self.low[targets] - offset]
        high = lines[self.high[targets] - offset]
        low *= 1 - share
        high *= share
        low += high
        return low
