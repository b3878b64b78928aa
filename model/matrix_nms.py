"""Matrix NMS: every instance's suppression at once (paper section 3.4)."""

from typing import Literal

import torch
from torch import Tensor

_ROWS = 64  # compared at a time with all that come after the first of them


def matrix_nms(
    masks: Tensor,
    labels: Tensor,
    scores: Tensor,
    *,
    kernel: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 2.0,
) -> Tensor:
    """Lower each score by how far a better mask of the same class already covers it.

    Instances must come sorted by score, highest first. None is removed: the caller thresholds
    the returned scores. Follows mmdet/models/layers/matrix_nms.py, except that empty or
    identical masks give finite scores where the original divides zero by zero.

    Args:
        masks: (N, h, w) bool.
        labels: (N,) int64 class index.
        scores: (N,) float, descending.
        kernel: Decay over IoU: ``exp(-sigma * iou**2)`` or ``1 - iou``.
        sigma: Strength of the gaussian decay; larger suppresses harder.

    Returns:
        (N,) float decayed scores, in the order given.
    """
    if len(scores) == 0:
        return scores

    iou = _iou_with_better(masks, labels)  # the row outranks the column

    # A suppressor that is itself suppressed must not suppress others at full strength.
    covered = iou.amax(0)[:, None]  # (N, 1), of each row
    if kernel == "gaussian":
        decay = torch.exp(-sigma * iou**2) / torch.exp(-sigma * covered**2)
    else:
        decay = ((1 - iou) / (1 - covered)).nan_to_num(nan=0.0, posinf=torch.inf)
    return scores * decay.amin(0)


def _iou_with_better(masks: Tensor, labels: Tensor) -> Tensor:
    """(N, h, w) masks -> (N, N) float IoU of row and later column if of one class, else 0."""
    iou = torch.zeros(len(masks), len(masks), device=masks.device)
    for members in _classes(labels):
        flat = masks[members].flatten(1).float()  # (n, h*w)
        area = flat.sum(1)
        for start in range(0, len(members), _ROWS):
            rows = slice(start, start + _ROWS)
            intersection = flat[rows] @ flat[start:].T
            union = area[rows, None] + area[start:] - intersection
            iou[members[rows, None], members[start:]] = intersection / union.clamp(min=1)
    return iou.mul_(labels[:, None] == labels).triu_(diagonal=1)


def _classes(labels: Tensor) -> list[Tensor]:
    """The indices of each class; of all at once on a GPU.

    There products cost little, and to find the classes it would have to be waited for.
    """
    if labels.is_cuda:
        return [torch.arange(len(labels), device=labels.device)]
    return [(labels == label).nonzero()[:, 0] for label in torch.unique(labels)]
