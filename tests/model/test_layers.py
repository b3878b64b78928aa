import pytest
import torch
from goldens import GOLDEN, load

from model.layers import ConvNorm, DeformableConv, with_coordinates

DCN = load(GOLDEN / "unit_dcn.npz")
HEAD = load(GOLDEN / "unit_head_forward.npz")

# One offset per tap and group of channels (deform_groups 2) and DCNv1 occur in no SOLOv2 network.
MODULATED = [
    index
    for index, case in enumerate(DCN.meta["cases"])
    if case["type"] == "DCNv2" and case["deform_groups"] == 1
]


@pytest.mark.parametrize("size", [(3, 5), (1, 4), (200, 304)], ids=str)
def test_coordinates_span_minus_one_to_one_like_the_originals(size: tuple[int, int]) -> None:
    features = torch.zeros(1, 4, *size)

    coordinates = with_coordinates(features)[:, 4:]

    assert torch.equal(coordinates, HEAD.tensor(f"coord_{size[0]}x{size[1]}"))


def test_coordinates_leave_the_features_as_they_are() -> None:
    features = torch.randn(2, 3, 4, 5)

    assert torch.equal(with_coordinates(features)[:, :3], features)


@pytest.mark.parametrize("index", MODULATED)
def test_deformable_convolution_equals_the_originals(index: int) -> None:
    case = DCN.meta["cases"][index]
    conv = DeformableConv(
        case["cin"],
        case["cout"],
        case["kernel"],
        stride=case["stride"],
        padding=case["padding"],
        groups=case["groups"],
    )
    names = {"weight": "weight", "offset.weight": "offset_weight", "offset.bias": "offset_bias"}
    conv.load_state_dict({ours: DCN.tensor(f"{index}/{name}") for ours, name in names.items()})

    with torch.no_grad():
        result = conv(DCN.tensor(f"{index}/x"))

    torch.testing.assert_close(result, DCN.tensor(f"{index}/y"), rtol=0, atol=1e-5)


def test_a_fresh_deformable_convolution_samples_half_of_a_plain_one() -> None:
    conv = DeformableConv(4, 6, 3, padding=1)
    x = torch.randn(1, 4, 7, 9)

    plain = torch.nn.functional.conv2d(x, conv.weight, padding=1)

    # No offset yet, and every tap weighted by sigmoid(0).
    torch.testing.assert_close(conv(x), plain / 2)


@pytest.mark.parametrize("deformable", [False, True])
def test_a_block_keeps_the_size_and_is_never_negative(deformable: bool) -> None:
    block = ConvNorm(6, 8, norm_groups=4, deformable=deformable)

    result = block(torch.randn(2, 6, 5, 7))

    assert result.shape == (2, 8, 5, 7)
    assert result.min() == 0
