import pytest
import torch
from goldens import GOLDEN, load

from model.layers import ConvNorm, with_coordinates

HEAD = load(GOLDEN / "unit_head_forward.npz")


@pytest.mark.parametrize("size", [(3, 5), (1, 4), (200, 304)], ids=str)
def test_coordinates_span_minus_one_to_one_like_the_originals(size: tuple[int, int]) -> None:
    features = torch.zeros(1, 4, *size)

    coordinates = with_coordinates(features)[:, 4:]

    assert torch.equal(coordinates, HEAD.tensor(f"coord_{size[0]}x{size[1]}"))


def test_coordinates_leave_the_features_as_they_are() -> None:
    features = torch.randn(2, 3, 4, 5)

    assert torch.equal(with_coordinates(features)[:, :3], features)


@pytest.mark.parametrize("deformable", [False, True])
def test_a_block_keeps_the_size_and_is_never_negative(deformable: bool) -> None:
    block = ConvNorm(6, 8, norm_groups=4, deformable=deformable)

    result = block(torch.randn(2, 6, 5, 7))

    assert result.shape == (2, 8, 5, 7)
    assert result.min() == 0


def test_blocks_take_several_maps_as_they_take_each() -> None:
    block = ConvNorm(6, 8, norm_groups=4)
    maps = [torch.randn(1, 6, size, size) for size in (5, 3)]

    for result, x in zip(block.each(maps), maps, strict=True):
        assert torch.equal(result, block(x))
