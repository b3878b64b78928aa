"""Building blocks shared by the pyramid's two consumers, the head and the mask feature."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.deformable import DeformableConv
from model.winograd import WinogradConv2d


def with_coordinates(features: Tensor) -> Tensor:
    """(B, c, h, w) -> (B, c + 2, h, w): append each position's x and y, both from -1 to 1.

    The span is the whole padded map (paper section 3.2.1), which is why an image's canvas
    decides its result.
    """
    batch, _, height, width = features.shape
    dtype, device = features.dtype, features.device
    x = torch.linspace(-1, 1, width, dtype=dtype, device=device).expand(batch, 1, height, width)
    y = torch.linspace(-1, 1, height, dtype=dtype, device=device)[:, None].expand_as(x)
    return torch.cat([features, x, y], dim=1)


class ConvNorm(nn.Module):
    """Convolution, GroupNorm, ReLU; the convolution has no bias and keeps the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        norm_groups: int = 32,
        deformable: bool = False,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv: nn.Module = (
            DeformableConv(in_channels, out_channels, kernel_size, padding=padding)
            if deformable
            else nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False)
        )
        self.norm = nn.GroupNorm(norm_groups, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.each([x])[0]

    def each(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of several maps."""
        return [F.relu(self.norm(x), inplace=True) for x in convolve_each(self.conv, maps)]


def convolve_each(conv: nn.Module, maps: Sequence[Tensor]) -> list[Tensor]:
    """``conv`` of several maps, together where that is faster."""
    return conv.each(maps) if isinstance(conv, WinogradConv2d) else [conv(x) for x in maps]
