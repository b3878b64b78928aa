"""What training minimises: Dice loss of the masks and focal loss of the classes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from model.structures import SOLOv2Output
from model.training.targets import Targets

MASK_WEIGHT = 3.0
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
_DICE_EPS = 1e-3  # mmdet DiceLoss, added to either half of the denominator


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalars, already weighted."""

    mask: Tensor
    category: Tensor

    @property
    def total(self) -> Tensor:
        return self.mask + self.category


def solov2_losses(
    output: SOLOv2Output, targets: Targets, num_positives: Tensor | int | None = None
) -> Losses:
    """Losses of one batch, in float32 whatever the network's precision.

    The mask loss is the sum over all (cell, object) pairs divided by the number of distinct
    positive cells, so it can exceed its weight of 3. The original SOLO takes the mean over the
    pairs; MMDetection, which this follows, does not.

    Args:
        output: Raw predictions of the network.
        targets: Of the same images, on the same device.
        num_positives: Divides the sums instead of the batch's own count: where several
            processes share a batch, the count of all of them.
    """
    positives = targets.num_positives if num_positives is None else num_positives
    count = torch.as_tensor(positives, dtype=torch.float32, device=targets.labels.device)
    with torch.autocast(targets.labels.device.type, enabled=False):
        pairwise = torch.cat(list(_dice_losses(output, targets)))
        return Losses(
            mask=MASK_WEIGHT * pairwise.sum() / count.clamp(min=1),
            category=_focal_sum(output.categories, targets.labels) / (count + 1),
        )


def _dice_losses(output: SOLOv2Output, targets: Targets) -> Iterator[Tensor]:
    """For each image (P,): one minus the Dice coefficient of every pair.

    A cell's mask is drawn once, however many objects claim the cell; all its overlaps are
    then one matrix product.
    """
    kernels = torch.cat([k.flatten(2) for k in output.kernels], dim=2)  # (B, E, T)
    for feature, kernel, (cells, pairs, masks) in zip(
        output.mask_feature, kernels, targets.per_image(), strict=True
    ):
        chosen = kernel[:, cells].float().T  # (K, E)
        drawn = (chosen @ feature.float().flatten(1)).sigmoid()  # (K, h*w)
        wanted = masks.flatten(1).float()  # (N, h*w)
        overlap = (drawn @ wanted.T)[pairs[:, 0], pairs[:, 1]]
        energy = drawn.square().sum(1)[pairs[:, 0]] + wanted.sum(1)[pairs[:, 1]]
        yield 1 - 2 * overlap / (energy + 2 * _DICE_EPS)


def _focal_sum(categories: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Sum over every cell and class; background (label C) is the absence of all classes."""
    logits = torch.cat([c.flatten(2) for c in categories], dim=2).transpose(1, 2).float()
    num_classes = logits.shape[2]
    wanted = F.one_hot(labels, num_classes + 1)[..., :num_classes].to(logits.dtype)  # (B, T, C)
    return sigmoid_focal_loss(logits, wanted, alpha=FOCAL_ALPHA, gamma=FOCAL_GAMMA, reduction="sum")
