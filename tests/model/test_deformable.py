from collections.abc import Callable
from typing import Any

import pytest
import torch
from goldens import GOLDEN, load
from torch import Tensor
from torchvision.ops import deform_conv2d

from model.deformable import DeformableConv, gather_conv2d

DCN = load(GOLDEN / "unit_dcn.npz")

# One offset per tap and group of channels (deform_groups 2) and DCNv1 occur in no SOLOv2 network.
MODULATED = [
    index
    for index, case in enumerate(DCN.meta["cases"])
    if case["type"] == "DCNv2" and case["deform_groups"] == 1
]


def sampled(convolve: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
    """The result of one of the two operators, whose first argument goes by different names."""
    return convolve(given["x"], **{name: value for name, value in given.items() if name != "x"})


def arguments(groups: int = 1, stride: int = 1) -> dict[str, Any]:
    """Two small pictures, sampled up to some pixels beyond their borders."""
    random = torch.Generator().manual_seed(groups)
    height, width = (9 + stride - 1) // stride, (21 + stride - 1) // stride
    return {
        "x": torch.randn(2, 16, 9, 21, generator=random),
        "offset": 4 * torch.randn(2, 18, height, width, generator=random),
        "weight": torch.randn(24, 16 // groups, 3, 3, generator=random),
        "mask": torch.rand(2, 9, height, width, generator=random),
        "stride": stride,
        "padding": 1,
    }


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


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_gathering_equals_the_operator_of_torchvision(groups: int, stride: int) -> None:
    given = arguments(groups, stride)

    ours, theirs = (sampled(convolve, given) for convolve in (gather_conv2d, deform_conv2d))

    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_gathering_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments()
    whole = gather_conv2d(**given)

    monkeypatch.setattr("model.deformable._CHUNK_ELEMENTS", 1)

    torch.testing.assert_close(gather_conv2d(**given), whole, rtol=0, atol=1e-5)


def test_gathering_has_the_gradients_of_torchvision() -> None:
    names = ("x", "offset", "weight", "mask")

    def gradients(convolve) -> list[Tensor]:
        given = arguments()
        for name in names:
            given[name].requires_grad_()
        sampled(convolve, given).square().sum().backward()
        return [given[name].grad for name in names]

    for ours, theirs in zip(gradients(gather_conv2d), gradients(deform_conv2d), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)


def test_an_offset_that_is_no_number_spoils_its_own_position_only() -> None:
    given = arguments()
    expected = gather_conv2d(**given)
    given["offset"][0, :, 2, 3] = torch.tensor([float("nan"), float("inf"), -1e38]).repeat(6)

    result = gather_conv2d(**given)

    spoiled = torch.zeros_like(result, dtype=torch.bool)
    spoiled[0, :, 2, 3] = True
    assert result[spoiled].isnan().all()
    assert torch.equal(result[~spoiled], expected[~spoiled])
