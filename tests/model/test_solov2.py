import numpy as np
import pytest
import torch
from goldens import GOLDEN, Golden, load, picture, seeded_network
from tiny import TINY

from model.config import VARIANTS, PreprocessConfig
from model.preprocess import preprocess
from model.solov2 import build_solov2

# Strides of the samples that the goldens keep of each stage: channels, rows, columns.
SAMPLES = {"cls": (5, 4, 4), "kernel": (8, 4, 4), "mask_feats": (8, 3, 3), "fpn": (16, 1, 1)}

PARAMETERS = {  # of the official networks, batch norm statistics not counted
    "r50_1x": 46_592_912,
    "r50_3x": 46_592_912,
    "r101_3x": 65_585_040,
    "r101_dcn_3x": 68_729_118,
    "x101_dcn_3x": 113_420_574,
    "light_r18_3x": 18_271_760,
    "light_r34_3x": 28_379_920,
    "light_r50_3x": 31_340_560,
    "light_r50_dcn_3x": 33_516_965,
}


def assert_stage(golden: Golden, name: str, value: torch.Tensor) -> None:
    channels, rows, columns = SAMPLES[name.rstrip("01234")]
    sample = value[:, ::channels, ::rows, ::columns]

    torch.testing.assert_close(sample, golden.tensor(name), rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", ["r50_3x", "light_r50_dcn_3x"])
def test_every_stage_of_the_official_networks_is_reproduced(variant: str) -> None:
    golden = load(GOLDEN / f"micro_{variant}.npz")
    network = seeded_network(golden)
    batch = preprocess([picture()], PreprocessConfig(long_side=128, short_side=96))

    with torch.inference_mode():
        levels = network.fpn(network.backbone(batch.pixels))
        output = network(batch.pixels)

    assert_stage(golden, "mask_feats", output.mask_feature)
    for index in range(5):
        assert_stage(golden, f"fpn{index}", levels[index])
        assert_stage(golden, f"cls{index}", output.categories[index])
        assert_stage(golden, f"kernel{index}", output.kernels[index])


@pytest.mark.parametrize(("variant", "expected"), PARAMETERS.items())
def test_official_variants_have_the_official_number_of_parameters(
    variant: str, expected: int
) -> None:
    with torch.device("meta"):
        network = build_solov2(VARIANTS[variant])

    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_the_shipped_network_answers_at_every_grid() -> None:
    config = VARIANTS["mobile"]
    network = build_solov2(config).eval()

    with torch.inference_mode():
        output = network(torch.zeros(2, 3, 64, 96))

    assert [tuple(c.shape) for c in output.categories] == [(2, 2, s, s) for s in config.num_grids]
    assert output.mask_feature.shape == (2, config.mask_channels, 16, 24)
    assert np.isfinite(output.mask_feature.numpy()).all()


def test_the_mask_feature_comes_row_by_row_whatever_the_layout_inside() -> None:
    network = build_solov2(TINY).eval().to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 64, 96).to(memory_format=torch.channels_last)

    with torch.inference_mode():
        assert network(images).mask_feature.is_contiguous()
