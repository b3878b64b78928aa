import torch
import torch.nn.functional as F
from torch import Tensor

from model.fpn import FPN


def plain_pyramid(fpn: FPN, maps: tuple[Tensor, ...]) -> list[Tensor]:
    """The textbook loop: laterals, top-down sums, smoothing, one subsampled level."""
    inner, layer = fpn.pyramid.inner_blocks, fpn.pyramid.layer_blocks
    sums = [block(m) for block, m in zip(inner, maps, strict=True)]
    for level in (2, 1, 0):
        sums[level] = sums[level] + F.interpolate(sums[level + 1], size=sums[level].shape[2:])
    outputs = [block(s) for block, s in zip(layer, sums, strict=True)]
    return [*outputs, outputs[-1][:, :, ::2, ::2]]


def test_levels_are_sums_from_the_top_down_and_p6_is_every_other_pixel_of_p5() -> None:
    fpn = FPN((4, 6, 8, 10), 5)
    maps = tuple(torch.randn(2, c, 24 >> i, 40 >> i) for i, c in enumerate((4, 6, 8, 10)))

    levels = fpn(maps)

    assert len(levels) == 5
    for level, expected in zip(levels, plain_pyramid(fpn, maps), strict=True):
        torch.testing.assert_close(level, expected)
