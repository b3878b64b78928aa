"""Wide 3x3 convolutions with 36 multiplications where the plain form takes 144.

Winograd's F(4x4, 3x3): Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
Tiles of 6x6 pixels that overlap by two, and the kernels, are evaluated as polynomials at six points
per axis; a convolution becomes 36 matrix products, whose results are interpolated into tiles of
4x4. The points decide the rounding errors. With the paper's 0, 1, -1, 2, -2 they are five times
those of the plain form, with the ones below they are as small.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_CHANNELS = 96  # in and out; with fewer the transforms cost what the products gain
_MIN_TILES = 30  # of all maps; with fewer, reading the kernels costs what the products gain
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity
_TILE = 6
_STEP = 4  # from tile to tile, and the side of a result
_CHUNK_ELEMENTS = 1 << 20  # transformed input held at a time, at least: 4 MiB of float32

_Matrix = npt.NDArray[np.float64]


class WinogradConv2d(nn.Module):
    """What ``conv`` computes: 3x3, stride 1, padding 1, one group. For inference in float32.

    (B, C, H, W) -> (B, O, H, W), channels last inside and out. Takes four times the memory of the
    weights on top of them.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv  # small maps are left to it
        to_tiles, to_products, from_products = _transforms()
        taps = conv.weight.detach().double().permute(2, 3, 1, 0)  # (3, 3, C, O)
        kernels = _both_axes(to_products) @ taps.flatten(0, 1).flatten(1)
        self._kernels = kernels.float().view(-1, *taps.shape[2:])  # (36, C, O)
        self._to_tiles = _both_axes(to_tiles).float()  # (36, 36)
        self._from_products = _both_axes(from_products).float()  # (16, 36)

    def forward(self, x: Tensor) -> Tensor:
        return self.each([x])[0]

    def each(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of several maps, whose tiles go through the products together."""
        grids = [(-(-x.shape[2] // _STEP), -(-x.shape[3] // _STEP)) for x in maps]
        if sum(len(x) * math.prod(grid) for x, grid in zip(maps, grids, strict=True)) < _MIN_TILES:
            return [self.conv(x) for x in maps]
        _, inputs, outputs = self._kernels.shape
        results = [
            x.new_empty(len(x), down, _STEP, across, _STEP, outputs)
            for x, (down, across) in zip(maps, grids, strict=True)
        ]
        # Each chunk reads all kernels, so it is at least half as large as they are.
        limit = max(_CHUNK_ELEMENTS, self._kernels.numel() // 2) // (_TILE**2 * inputs)
        strips = chain.from_iterable(map(partial(_strips, limit=limit), maps, results))
        for chunk in _chunks(strips, limit):
            self._convolve(chunk)
        return [
            result.flatten(1, 2).flatten(2, 3)[:, : x.shape[2], : x.shape[3]].permute(0, 3, 1, 2)
            for x, result in zip(maps, results, strict=True)
        ]

    def _convolve(self, strips: Sequence["_Strip"]) -> None:
        _, inputs, outputs = self._kernels.shape
        counts = [len(strip) for strip in strips]
        tiles = self._kernels.new_empty(_TILE**2, sum(counts), inputs)
        for strip, part in zip(strips, torch.split(tiles, counts, dim=1), strict=True):
            part.view(strip.tiles.shape).copy_(strip.tiles)
        values = (self._to_tiles @ tiles.flatten(1)).view_as(tiles)
        products = torch.bmm(values, self._kernels)
        sums = (self._from_products @ products.flatten(1)).view(_STEP**2, -1, outputs)
        if self.conv.bias is not None:
            sums += self.conv.bias
        for strip, part in zip(strips, torch.split(sums, counts, dim=1), strict=True):
            strip.result.copy_(part.view(strip.result.shape))


@dataclass(frozen=True, slots=True)
class _Strip:
    """Rows of tiles of one image: where they are read and where their results belong."""

    tiles: Tensor  # (6, 6, rows, across, C)
    result: Tensor  # (4, 4, rows, across, O)

    def __len__(self) -> int:
        return math.prod(self.tiles.shape[2:4])


def _strips(x: Tensor, result: Tensor, limit: int) -> Iterator[_Strip]:
    """Of (B, C, H, W), with results for (B, down, 4, across, 4, O): at most ``limit`` tiles each.

    One row of tiles is the least.
    """
    _, down, _, across, _, _ = result.shape
    right, bottom = across * _STEP - x.shape[3] + 1, down * _STEP - x.shape[2] + 1
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, right, 1, bottom))
    rows = max(1, limit // across)
    for image, part in zip(padded, result, strict=True):
        tiles = image.unfold(0, _TILE, _STEP).unfold(1, _TILE, _STEP)  # (down, across, C, 6, 6)
        for start in range(0, down, rows):
            strip = slice(start, start + rows)
            yield _Strip(tiles[strip].permute(3, 4, 0, 1, 2), part[strip].permute(1, 3, 0, 2, 4))


def _chunks(strips: Iterable[_Strip], limit: int) -> Iterator[list[_Strip]]:
    """Neighbours together, as long as they have at most ``limit`` tiles."""
    chunk: list[_Strip] = []
    for strip in strips:
        if chunk and sum(map(len, chunk)) + len(strip) > limit:
            yield chunk
            chunk = []
        chunk.append(strip)
    yield chunk


def use_winograd(model: nn.Module) -> None:
    """Replace, in place, each convolution of ``model`` that gains from it."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and _gains(child):
                setattr(parent, name, WinogradConv2d(child))


def _gains(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (1, 1)
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
    )


def _transforms() -> tuple[_Matrix, _Matrix, _Matrix]:
    """For one axis: inputs to values (6, 6), taps to values (6, 3), products to outputs (4, 6).

    Toom and Cook's construction: the last row and column stand for the point at infinity.
    """
    points = np.array(_POINTS)
    inputs = np.zeros((_TILE, _TILE))
    for row, point in enumerate(_POINTS):
        inputs[row, :-1] = np.poly(points[points != point])[::-1]
    inputs[-1] = np.poly(points)[::-1]
    differences = points[:, None] - points + np.eye(len(points))
    taps = np.vander(points, 3, increasing=True) / differences.prod(1, keepdims=True)
    outputs = np.vander(points, _STEP, increasing=True).T
    at_infinity = np.eye(_STEP)[:, -1:]
    return inputs, np.vstack([taps, [[0, 0, 1]]]), np.hstack([outputs, at_infinity])


def _both_axes(matrix: _Matrix) -> Tensor:
    return torch.from_numpy(np.kron(matrix, matrix))
