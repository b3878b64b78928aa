"""Post-processing step by step as MMDetection does it, costs included.

What ``model.postprocess`` is compared with: one dynamic convolution per candidate, whole frames,
one image after the other.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import InferenceConfig
from model.crops import MASK_STRIDE
from model.matrix_nms import matrix_nms
from model.postprocess import LEVEL_STRIDES, points_nms
from model.structures import Geometry, Instances, SOLOv2Output


def reference_postprocess(
    output: SOLOv2Output, geometries: Sequence[Geometry], config: InferenceConfig
) -> list[Instances]:
    """One ``Instances`` per image of the batch, in the pixels of the original images.

    Memory grows with candidates times the canvas and with instances times the image.
    """
    return [
        _image_instances(
            [level[n : n + 1] for level in output.categories],
            [level[n : n + 1] for level in output.kernels],
            output.mask_feature[n : n + 1],
            geometry,
            config,
        )
        for n, geometry in enumerate(geometries)
    ]


def _image_instances(
    categories: list[Tensor],
    kernels: list[Tensor],
    mask_feature: Tensor,
    geometry: Geometry,
    config: InferenceConfig,
) -> Instances:
    scores = torch.cat([_cells(points_nms(level.sigmoid())) for level in categories])
    strides = torch.cat(
        [
            scores.new_full((level.shape[-1] ** 2,), stride)
            for level, stride in zip(categories, LEVEL_STRIDES, strict=True)
        ]
    )
    cell, label = (scores > config.candidate_threshold).nonzero(as_tuple=True)
    score = scores[cell, label]
    if len(cell) == 0:
        return _instances(score, label, mask_feature.new_zeros((0, *geometry.original)) > 0)
    weight = torch.cat([_cells(level) for level in kernels])[cell]
    probability = F.conv2d(mask_feature, weight[:, :, None, None])[0].sigmoid()  # (N, h, w)

    binary = probability > config.mask_threshold
    area = binary.sum((1, 2)).float()
    kept = area > strides[cell]
    probability, binary, area = probability[kept], binary[kept], area[kept]
    score, label = score[kept] * (probability * binary).sum((1, 2)) / area, label[kept]

    order = score.argsort(descending=True)[: config.candidates_before_nms]
    score = matrix_nms(
        binary[order],
        label[order],
        score[order],
        kernel=config.nms_kernel,
        sigma=config.nms_sigma,
    )
    above = (score >= config.score_threshold).nonzero()[:, 0]
    best = above[score[above].argsort(descending=True)][: config.max_instances]
    frames = _full_size(probability[order[best]], geometry) > config.mask_threshold
    return _instances(score[best], label[order[best]], frames)


def _cells(level: Tensor) -> Tensor:
    """(1, c, S, S) -> (S * S, c), cells row by row."""
    return level[0].flatten(1).T


def _full_size(probability: Tensor, geometry: Geometry) -> Tensor:
    """(N, h, w) -> (N, height, width) of the original image."""
    if len(probability) == 0:
        return probability.new_zeros((0, *geometry.original))
    canvas = F.interpolate(probability[None], scale_factor=MASK_STRIDE, mode="bilinear")
    height, width = geometry.resized
    cut = canvas[:, :, :height, :width]
    return F.interpolate(cut, size=geometry.original, mode="bilinear")[0]


def _instances(scores: Tensor, labels: Tensor, masks: Tensor) -> Instances:
    return Instances.from_full_masks(
        scores.cpu().numpy(), labels.cpu().numpy(), masks.cpu().numpy()
    )
