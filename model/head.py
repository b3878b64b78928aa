"""The category branch and the kernel branch on the S x S grids (paper section 3.2)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from model.deformable import DeformableConv
from model.layers import ConvNorm, convolve_each, with_coordinates


class SOLOv2Head(nn.Module):
    """For every grid cell: class logits, and the 1x1 kernel that draws the cell's mask.

    Both branches are shared by the five grids (mmdet/models/dense_heads/solov2_head.py).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        depth: int,
        num_classes: int,
        mask_channels: int,
        num_grids: tuple[int, ...],
        norm_groups: int,
        deformable: Literal["none", "last", "all"],
    ) -> None:
        super().__init__()
        self.num_grids = num_grids
        first_deformable = {"none": depth, "last": depth - 1, "all": 0}[deformable]

        def tower(first: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    ConvNorm(
                        first if i == 0 else channels,
                        channels,
                        norm_groups=norm_groups,
                        deformable=i >= first_deformable,
                    )
                    for i in range(depth)
                )
            )

        self.category_tower = tower(in_channels)
        self.kernel_tower = tower(in_channels + 2)
        self.category = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.kernel = nn.Conv2d(channels, mask_channels, 3, padding=1)
        self._start_small()

    def _start_small(self) -> None:
        """As RetinaNet does: small weights, every class at probability 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | DeformableConv):
                nn.init.normal_(module.weight, std=0.01)
        for module in self.modules():
            if isinstance(module, DeformableConv):
                nn.init.zeros_(module.offset.weight)
        for branch, bias in ((self.kernel, 0.0), (self.category, -math.log(99))):
            assert branch.bias is not None
            nn.init.constant_(branch.bias, bias)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """P2-P6 -> per grid (B, C, S, S) class logits, per grid (B, E, S, S) kernels."""
        # The coordinates are squeezed to the grid together with the features, and only then left
        # out for the categories: the order is the original's.
        cells = [
            F.interpolate(
                with_coordinates(features), size=(size, size), mode="bilinear", align_corners=False
            )
            for features, size in zip(_grid_levels(pyramid), self.num_grids, strict=True)
        ]
        kernels = _branch(self.kernel_tower, self.kernel, cells)
        categories = _branch(self.category_tower, self.category, [c[:, :-2] for c in cells])
        return categories, kernels


def _branch(tower: nn.Sequential, last: nn.Module, cells: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """All grids, block after block."""
    for block in tower:
        assert isinstance(block, ConvNorm)
        cells = block.each(cells)
    return tuple(convolve_each(last, cells))


def _grid_levels(pyramid: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """P2-P6 at strides 8, 8, 16, 32, 32: the finest halved, the coarsest brought to P5's size."""
    p2, p3, p4, p5, p6 = pyramid
    return (
        F.interpolate(p2, scale_factor=0.5, mode="bilinear", align_corners=False),
        p3,
        p4,
        p5,
        F.interpolate(p6, size=p5.shape[-2:], mode="bilinear", align_corners=False),
    )
