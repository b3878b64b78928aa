"""Raw network output -> instances (mmdet SOLOV2Head.predict_by_feat, in its exact order).

Two things differ from the original in cost, not in result. Candidates that share a grid cell
share its mask, so one dynamic convolution serves them all. And no mask is ever made in the
size of its image: only the part of the frame where a mask can exceed the threshold is upsampled.
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
CHUNK_ELEMENTS = 1 << 24  # mask probabilities held at a time: 64 MiB of float32


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
    return F.conv2d(mask_feature[None], weight)[0].float().sigmoid()


def _chunks(count: int, mask_feature: Tensor) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // mask_feature[0].numel())
    return [slice(start, start + size) for start in range(0, count, size)]


def _cell_masks(kernels: Tensor, mask_feature: Tensor, threshold: float) -> _CellMasks:
    count, device = len(kernels), kernels.device
    binary = torch.empty((count, *mask_feature.shape[1:]), dtype=torch.bool, device=device)
    area, maskness = (torch.empty(count, device=device) for _ in range(2))
    for chunk in _chunks(count, mask_feature):
        probability = _mask_probabilities(kernels[chunk], mask_feature)
        binary[chunk] = probability > threshold
        area[chunk] = binary[chunk].sum((1, 2)).float()
        # An empty mask has maskness 0/0; its area keeps it from going any further.
        maskness[chunk] = (probability * binary[chunk]).sum((1, 2)) / area[chunk]
    return _CellMasks(binary, area, maskness)


def _mask_crops(
    kernels: Tensor, mask_feature: Tensor, binary: Tensor, geometry: Geometry, threshold: float
) -> tuple[npt.NDArray[np.int64], MaskCrops]:
    """The (N, h, w) stride-4 masks of these (N, E) kernels as (N, 4) boxes and crops."""
    height, width = mask_feature.shape[1:]
    rows = _Axis.compose(height, geometry.resized[0], geometry.original[0])
    columns = _Axis.compose(width, geometry.resized[1], geometry.original[1])
    boxes = np.zeros((len(kernels), 4), dtype=np.int64)

    def crops() -> Iterator[BoolMask]:
        for chunk in _chunks(len(kernels), mask_feature):
            probabilities = _mask_probabilities(kernels[chunk], mask_feature).cpu()
            extents = zip(_extent(binary[chunk].any(2)), _extent(binary[chunk].any(1)), strict=True)
            for box, probability, extent in zip(boxes[chunk], probabilities, extents, strict=True):
                box[:], mask = _crop(probability, rows, columns, *extent, threshold)
                yield mask

    return boxes, MaskCrops.pack(crops())


def _extent(occupied: Tensor) -> list[tuple[int, int]]:
    """(N, n) bool, each row with a true -> first true and one past the last true."""
    occupied = occupied.to(torch.uint8)
    first = occupied.argmax(1)
    end = occupied.shape[1] - occupied.flip(1).argmax(1)
    return list(zip(first.tolist(), end.tolist(), strict=True))


def _crop(
    probability: Tensor,
    rows: "_Axis",
    columns: "_Axis",
    row_extent: tuple[int, int],
    column_extent: tuple[int, int],
    threshold: float,
) -> tuple[tuple[int, int, int, int], BoolMask]:
    """Upsample the part of one (h, w) mask that matters; tighten it to its exact box."""
    (y, cell_rows), (x, cell_columns) = rows.reach(*row_extent), columns.reach(*column_extent)
    upsampled = (
        rows.weights[y, cell_rows]
        @ probability[cell_rows, cell_columns]
        @ columns.weights[x, cell_columns].T
    )
    mask = (upsampled > threshold).numpy()
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(ys) == 0:
        return (0, 0, 0, 0), np.zeros((0, 0), dtype=np.bool_)
    top, bottom, left, right = int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1
    box = (x.start + left, y.start + top, x.start + right, y.start + bottom)
    return box, mask[top:bottom, left:right]


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of the way from stride-4 cells to image pixels, as a matrix.

    The original upsamples by four, cuts the padding off, then resizes to the image; both resizes
    are bilinear. Each is linear and separable, so per axis the two are one matrix with at most
    four weights a row.
    """

    weights: Tensor  # (pixels, cells) float32
    first: Tensor  # (pixels,) int64, lowest cell with a weight in that row
    last: Tensor  # (pixels,) int64, highest such cell

    @classmethod
    def compose(cls, cells: int, resized: int, original: int) -> "_Axis":
        fine_low, fine_high, fine_weight = _bilinear_taps(cells, cells * MASK_STRIDE)
        low, high, weight = _bilinear_taps(resized, original)
        weights = torch.zeros(original, cells)
        for index, share in ((low, 1 - weight), (high, weight)):
            near, far = fine_low[index], fine_high[index]
            weights.scatter_add_(1, near[:, None], (share * (1 - fine_weight[index]))[:, None])
            weights.scatter_add_(1, far[:, None], (share * fine_weight[index])[:, None])
        return cls(weights, fine_low[low], fine_high[high])

    def reach(self, start: int, end: int) -> tuple[slice, slice]:
        """Pixels that cells ``start`` to ``end - 1`` can colour, and all cells those read."""
        first_pixel = int(torch.searchsorted(self.last, start))
        end_pixel = int(torch.searchsorted(self.first, end))
        if first_pixel >= end_pixel:  # all of it lies in the padding
            return slice(0, 0), slice(0, 0)
        cells = slice(int(self.first[first_pixel]), int(self.last[end_pixel - 1]) + 1)
        return slice(first_pixel, end_pixel), cells


def _bilinear_taps(size: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lower tap, upper tap and the upper's weight of ``F.interpolate(align_corners=False)``."""
    scale = torch.tensor(size / target, dtype=torch.float32)
    source = ((torch.arange(target, dtype=torch.float32) + 0.5) * scale - 0.5).clamp(min=0)
    low = source.long().clamp(max=size - 1)
    return low, (low + 1).clamp(max=size - 1), (source - low).clamp(max=1)
