"""Deformable convolution (DCNv2, arXiv:1811.11168), by the faster of two ways on each device."""

import itertools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

_CHUNK_ELEMENTS = 1 << 20  # samples at a time: 4 MiB of float32, which a processor's cache holds
_MIN_POSITIONS = 64


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
        convolve = gather_conv2d if x.device.type == "cpu" else deform_conv2d
        return convolve(
            x,
            offsets.contiguous(),
            self.weight,
            stride=self.stride,
            padding=self.padding,
            mask=logits.sigmoid(),
        )


def gather_conv2d(
    x: Tensor, offset: Tensor, weight: Tensor, *, stride: int, padding: int, mask: Tensor
) -> Tensor:
    """``torchvision.ops.deform_conv2d`` on a CPU, sooner; in the official networks to the same bit.

    All channels of a position are sampled alike. With channels last, a sample is the sum of four
    rows of a table, each times its share, which ``embedding_bag`` fetches vectorised and on all
    threads; torchvision's operator goes through channels and positions one by one on one thread.

    Args:
        x: (B, in, H, W).
        offset: (B, 2 * k * k, h, w) pixels, interleaved (dy, dx) of the taps, row by row; the
            channels share them.
        weight: (out, in / groups, k, k).
        stride: Of the output positions, in pixels.
        padding: Zeros around ``x``, in pixels.
        mask: (B, k * k, h, w) factor of each tap.

    Returns:
        (B, out, h, w).
    """
    results = []
    for image, image_offset, factor in zip(x, offset.float(), mask.flatten(2), strict=True):
        corners, shares = _corners(image_offset, image.shape[1:], stride, padding)
        results.append(_convolve(image, corners, shares, factor, weight))
    return torch.stack(results).view(len(x), len(weight), *offset.shape[2:])


def _convolve(
    image: Tensor, corners: Tensor, shares: Tensor, factor: Tensor, weight: Tensor
) -> Tensor:
    """(in, H, W), sampled at (4, K, P) corners, times a (K, P) factor -> (out, P)."""
    channels, out_channels = len(image), len(weight)
    groups = channels // weight.shape[1]
    table = image.flatten(1).t().contiguous()  # (H * W, in)
    kernels = weight.reshape(groups, out_channels // groups, -1)
    parts = []
    for chunk in _chunks(factor.shape[1], channels * len(factor)):
        columns = _sample(table, corners[..., chunk], shares[..., chunk])  # (K * p, in)
        columns *= factor[:, chunk].reshape(-1, 1)
        columns = columns.t().contiguous().view(groups, kernels.shape[2], -1)
        parts.append(torch.bmm(kernels, columns).view(out_channels, -1))
    return torch.cat(parts, dim=1)


def _sample(table: Tensor, corners: Tensor, shares: Tensor) -> Tensor:
    """Rows of (M, in) at (4, K, p) corners, weighted and added -> (K * p, in)."""
    top_left, *others = (
        F.embedding_bag(
            corner.reshape(-1, 1),
            table,
            per_sample_weights=share.reshape(-1, 1).to(table.dtype),
            mode="sum",
        )
        for corner, share in zip(corners, shares, strict=True)
    )
    for other in others:
        top_left += other
    return top_left


def _chunks(positions: int, samples_each: int) -> Iterator[slice]:
    """Positions in parts of one size, give or take one.

    Very narrow parts would be multiplied by other routines, which round differently.
    """
    parts = round(positions * samples_each / _CHUNK_ELEMENTS)
    count = max(1, min(parts, positions // _MIN_POSITIONS))
    edges = [positions * part // count for part in range(count + 1)]
    return itertools.starmap(slice, itertools.pairwise(edges))


def _corners(offset: Tensor, size: torch.Size, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    """The four pixels round each sample, and what share of the sample each of them is.

    ``offset`` is (2K, h, w); both results are (4, K, h * w): the pixel as an index into the
    flattened (H, W), and its share, 0 where it lies outside.
    """
    height, width = offset.shape[1:]
    side = math.isqrt(len(offset) // 2)
    tap = torch.arange(side)
    down = (torch.arange(height) * stride - padding)[:, None] + tap[:, None, None, None]
    right = (torch.arange(width) * stride - padding) + tap[:, None, None]
    dy, dx = offset.view(side, side, 2, height, width).unbind(2)
    rows, row_shares = _neighbours(down + dy, size[0])
    columns, column_shares = _neighbours(right + dx, size[1])
    shape = (4, side * side, height * width)
    pixels = torch.stack([row * size[1] + column for row in rows for column in columns])
    shares = torch.stack([row * column for row in row_shares for column in column_shares])
    return pixels.view(shape), shares.view(shape)


def _neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The pixels below and above each position on one axis, and their bilinear shares."""
    position = position.clamp(-1, size)  # all further ones see nothing either
    low = position.floor()
    above = position - low
    pixels = torch.stack([low, low + 1])
    shares = torch.stack([1 - above, above])
    inside = (pixels >= 0) & (pixels < size)
    return pixels.int().clamp(0, size - 1), shares * inside
