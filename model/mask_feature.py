"""The one mask feature that every dynamic kernel is convolved with (paper section 3.3.2)."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import ConvNorm, with_coordinates


class MaskFeature(nn.Module):
    """P2-P5 brought to stride 4, summed and projected.

    Level l is convolved and doubled in size l times; the coarsest level also sees where it
    is (mmdet MaskFeatModule in solov2_head.py).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        norm_groups: int,
        deformable: bool,
    ) -> None:
        super().__init__()

        block = partial(ConvNorm, norm_groups=norm_groups, deformable=deformable)
        doubling = partial(_DoublingBlock, norm_groups=norm_groups, deformable=deformable)

        def level(channels: int, doublings: int) -> nn.Sequential:
            inputs = [channels] + [hidden_channels] * (doublings - 1)
            return nn.Sequential(*(doubling(c, hidden_channels) for c in inputs))

        self.levels = nn.ModuleList(
            [
                nn.Sequential(block(in_channels, hidden_channels)),
                level(in_channels, 1),
                level(in_channels, 2),
                level(in_channels + 2, 3),
            ]
        )
        self.projection = block(hidden_channels, out_channels, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """P2-P5 (further levels are ignored) -> (B, E, h, w), never negative."""
        p2, p3, p4, p5 = pyramid[:4]
        total = self.levels[0](p2)
        for level, features in zip(self.levels[1:], (p3, p4, with_coordinates(p5)), strict=True):
            total = total + level(features)
        return self.projection(total)


class _DoublingBlock(ConvNorm):
    """A ConvNorm block whose output is bilinearly upsampled to twice the size."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(
            super().forward(x), scale_factor=2, mode="bilinear", align_corners=False
        )
