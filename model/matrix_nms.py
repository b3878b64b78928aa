"""Matrix NMS: every instance's suppression at once (paper section 3.4)."""

from typing import Literal

import torch
from torch import Tensor


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

    flat = masks.flatten(1).float()  # (N, h*w)
    intersection = flat @ flat.T  # (N, N)
    area = flat.sum(1)
    union = area[:, None] + area - intersection
    better = (labels[:, None] == labels).triu(diagonal=1)  # row outranks column, same class
    iou = torch.where(better, intersection / union.clamp(min=1), 0)

    # A suppressor that is itself suppressed must not suppress others at full strength.
    covered = iou.amax(0)[:, None]  # (N, 1), of each row
    if kernel == "gaussian":
        decay = torch.exp(-sigma * iou**2) / torch.exp(-sigma * covered**2)
    else:
        decay = ((1 - iou) / (1 - covered)).nan_to_num(nan=0.0, posinf=torch.inf)
    return scores * decay.amin(0)
