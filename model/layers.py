"""Building blocks shared by the pyramid's two consumers, the head and the mask feature."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


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


class DeformableConv(nn.Module):
    """Modulated deformable convolution, DCNv2 (mmcv/ops/modulated_deform_conv.py).

    (B, in, h, w) -> (B, out, h', w'). Every tap samples at a learned offset and is weighted by
    a learned factor in [0, 1]. ``offset`` predicts both: for K taps, 2K interleaved (dy, dx)
    pixels, then K logits of the factor.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = padding
        taps = kernel_size * kernel_size
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size)
        )
        self.offset = nn.Conv2d(in_channels, 3 * taps, kernel_size, stride, padding)
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        predicted = self.offset(x)
        taps = predicted.shape[1] // 3
        offsets, logits = predicted.split([2 * taps, taps], dim=1)
        return deform_conv2d(
            x,
            offsets.contiguous(),
            self.weight,
            stride=self.stride,
            padding=self.padding,
            mask=logits.sigmoid(),
        )


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
        return F.relu(self.norm(self.conv(x)), inplace=True)
