import pytest
import torch
from torch import Tensor, nn

from model.winograd import WinogradConv2d, use_winograd


def convolution(channels: int, *, bias: bool = False, **changes) -> nn.Conv2d:
    """Whose results are about 1 for inputs of about 1."""
    torch.manual_seed(channels)
    conv = nn.Conv2d(channels, channels, **{"kernel_size": 3, "padding": 1, "bias": bias} | changes)
    nn.init.normal_(conv.weight, std=conv.weight[0].numel() ** -0.5)
    return conv


def largest_error(module: nn.Module, conv: nn.Conv2d, x: Tensor) -> float:
    """Against the convolution in float64."""
    with torch.inference_mode():
        result = module(x)
        expected = nn.functional.conv2d(x.double(), conv.weight.double(), padding=1)
    assert result.shape == expected.shape
    return float((result - expected).abs().max())


@pytest.mark.parametrize("size", [(40, 36), (41, 38), (23, 90), (4, 160), (160, 3)])
def test_it_convolves_maps_of_any_size(size: tuple[int, int]) -> None:
    conv = convolution(16)

    assert largest_error(WinogradConv2d(conv), conv, torch.randn(1, 16, *size)) < 1e-5


def test_it_convolves_each_image_of_a_batch_with_its_bias() -> None:
    conv = convolution(8, bias=True)
    nn.init.normal_(conv.bias)
    x = torch.randn(3, 8, 30, 30)

    with torch.inference_mode():
        torch.testing.assert_close(WinogradConv2d(conv)(x), conv(x), rtol=0, atol=1e-5)


def test_maps_too_large_for_the_cache_are_convolved_in_parts() -> None:
    conv = convolution(128)

    assert largest_error(WinogradConv2d(conv), conv, torch.randn(1, 128, 100, 68)) < 2e-5


def test_rounding_errors_are_those_of_a_plain_convolution() -> None:
    conv = convolution(256)
    x = torch.randn(1, 256, 32, 32).relu()

    assert largest_error(WinogradConv2d(conv), conv, x) < 2 * largest_error(conv, conv, x)


def test_maps_of_several_sizes_go_through_together() -> None:
    conv = convolution(128, bias=True)
    maps = [torch.randn(2, 128, *size) for size in ((40, 40), (9, 13), (160, 90), (1, 1))]

    with torch.inference_mode():
        for result, x in zip(WinogradConv2d(conv).each(maps), maps, strict=True):
            torch.testing.assert_close(result, conv(x), rtol=0, atol=2e-5)


def test_maps_that_are_small_alone_are_many_tiles_together() -> None:
    conv = convolution(8)
    maps = [torch.randn(1, 8, 16, 16) for _ in range(2)]

    with torch.inference_mode():
        together = WinogradConv2d(conv).each(maps)

        assert not torch.equal(together[0], WinogradConv2d(conv)(maps[0]))


def test_few_tiles_are_left_to_the_plain_convolution() -> None:
    conv = convolution(8)
    x = torch.randn(1, 8, 20, 20)

    with torch.inference_mode():
        assert torch.equal(WinogradConv2d(conv)(x), conv(x))


def test_results_have_their_channels_last() -> None:
    result = WinogradConv2d(convolution(8))(torch.randn(2, 8, 32, 32))

    assert result.is_contiguous(memory_format=torch.channels_last)


def test_wide_plain_convolutions_are_replaced_wherever_they_stand() -> None:
    model = nn.Sequential(nn.Sequential(convolution(96)), convolution(160))

    use_winograd(model)

    assert isinstance(model[0][0], WinogradConv2d)
    assert isinstance(model[1], WinogradConv2d)


@pytest.mark.parametrize(
    "conv",
    [
        convolution(88),
        convolution(128, stride=2),
        convolution(128, padding=0),
        convolution(128, dilation=2),
        convolution(128, groups=2),
        convolution(128, kernel_size=1, padding=0),
    ],
    ids=["narrow", "strided", "without padding", "dilated", "grouped", "1x1"],
)
def test_other_convolutions_stay(conv: nn.Conv2d) -> None:
    model = nn.Sequential(conv)

    use_winograd(model)

    assert model[0] is conv
