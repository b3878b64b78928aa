"""Raw network output -> instances (mmdet SOLOV2Head.predict_by_feat, in its exact order).

What differs from the original is the cost, not the result. Candidates that share a grid cell share
its mask, so one dynamic convolution serves them all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import InferenceConfig
from model.crops import crop_masks, mask_probabilities, mask_slices
from model.matrix_nms import matrix_nms
from model.structures import Geometry, Instances, SOLOv2Output

LEVEL_STRIDES = (8, 8, 16, 32, 32)  # a cell's mask needs more stride-4 pixels than this


@dataclass(frozen=True, slots=True)
class Candidates:
    """K objects that one image may show, best first, at stride 4."""

    scores: Tensor  # (K,) float, descending
    labels: Tensor  # (K,) int64
    kernels: Tensor  # (K, E)
    masks: Tensor  # (K, h, w) bool

    def __len__(self) -> int:
        return len(self.scores)


def postprocess(
    output: SOLOv2Output, geometries: Sequence[Geometry], config: InferenceConfig
) -> list[Instances]:
    """One ``Instances`` per image of the batch, in the pixels of the original images."""
    images = zip(find_candidates(output, config), output.mask_feature, geometries, strict=True)
    return [
        crop(suppress(candidates, config), mask_feature, geometry, config)
        for candidates, mask_feature, geometry in images
    ]


def find_candidates(output: SOLOv2Output, config: InferenceConfig) -> Iterator[Candidates]:
    """What each image of the batch may show, before Matrix NMS."""
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
    for image in zip(scores, kernels, output.mask_feature, strict=True):
        yield _image_candidates(*image, strides, config)


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


def _image_candidates(
    scores: Tensor,
    kernels: Tensor,
    mask_feature: Tensor,
    strides: Tensor,
    config: InferenceConfig,
) -> Candidates:
    cell, label = (scores > config.candidate_threshold).nonzero(as_tuple=True)
    cells, mask_of = torch.unique(cell, return_inverse=True)
    masks = _cell_masks(kernels[cells], mask_feature, config.mask_threshold)

    large = masks.area[mask_of] > strides[cell]
    cell, label, mask_of = cell[large], label[large], mask_of[large]
    rescored = scores[cell, label] * masks.maskness[mask_of]

    rescored, order = rescored.sort(descending=True)
    rescored, order = (x[: config.candidates_before_nms] for x in (rescored, order))
    return Candidates(rescored, label[order], kernels[cell[order]], masks.binary[mask_of[order]])


def suppress(candidates: Candidates, config: InferenceConfig) -> Candidates:
    """Those that Matrix NMS leaves above the threshold, with their decayed scores."""
    decayed = matrix_nms(
        candidates.masks,
        candidates.labels,
        candidates.scores,
        kernel=config.nms_kernel,
        sigma=config.nms_sigma,
    )
    above = (decayed >= config.score_threshold).nonzero()[:, 0]
    final, order = decayed[above].sort(descending=True)
    keep = above[order][: config.max_instances]
    return Candidates(
        final[: config.max_instances],
        candidates.labels[keep],
        candidates.kernels[keep],
        candidates.masks[keep],
    )


def crop(
    candidates: Candidates, mask_feature: Tensor, geometry: Geometry, config: InferenceConfig
) -> Instances:
    """Candidates in the pixels of their image, whose mask feature is (E, h, w)."""
    boxes, crops = crop_masks(
        candidates.kernels, mask_feature, candidates.masks, geometry, config.mask_threshold
    )
    return Instances(
        scores=candidates.scores.cpu().numpy(),
        labels=candidates.labels.cpu().numpy(),
        boxes=boxes,
        masks=crops,
        height=geometry.original[0],
        width=geometry.original[1],
    )


def _cell_masks(kernels: Tensor, mask_feature: Tensor, threshold: float) -> _CellMasks:
    count, device = len(kernels), kernels.device
    binary = torch.empty((count, *mask_feature.shape[1:]), dtype=torch.bool, device=device)
    area, maskness = (torch.empty(count, device=device) for _ in range(2))
    for chunk in mask_slices(count, mask_feature):
        probability = mask_probabilities(kernels[chunk], mask_feature)
        inside = F.threshold(probability, threshold, 0.0, inplace=True)
        total = inside.sum((1, 2))
        # Sums of floats are vectorised, those of bools are not: 0 stays 0, all others become 1.
        area[chunk] = inside.ceil_().sum((1, 2))
        binary[chunk] = inside > 0
        # An empty mask has maskness 0/0; its area keeps it from going any further.
        maskness[chunk] = total / area[chunk]
    return _CellMasks(binary, area, maskness)
