import pytest
import torch
from goldens import OFFICIAL, official_keys

from model.checkpoint import CheckpointError
from model.config import VARIANTS
from model.convert_mmdet import convert_state_dict, rename_key
from model.solov2 import build_solov2


def our_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = build_solov2(VARIANTS[variant])
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


@pytest.mark.parametrize("variant", OFFICIAL)
def test_every_official_key_becomes_one_of_ours_and_none_is_left(variant: str) -> None:
    source = {k: torch.empty(s, device="meta") for k, s in official_keys(variant).items()}

    converted = convert_state_dict(source, our_shapes(variant))

    assert converted.keys() == our_shapes(variant).keys()


def test_what_does_not_fit_is_listed_whole() -> None:
    source = {k: torch.empty(s, device="meta") for k, s in official_keys("light_r18_3x").items()}
    del source["mask_head.conv_cls.bias"]
    source["mask_head.conv_cls.weight"] = torch.empty(3, 256, 3, 3, device="meta")
    source["bbox_head.fc.weight"] = torch.empty(1, device="meta")

    with pytest.raises(CheckpointError) as failure:
        convert_state_dict(source, our_shapes("light_r18_3x"))

    text = str(failure.value)
    assert "bbox_head.fc.weight: not part" in text
    assert "head.category.bias: missing" in text
    assert "head.category.weight: shape (3, 256, 3, 3), expected (80, 256, 3, 3)" in text


def test_backbone_names_are_the_same_on_both_sides() -> None:
    assert rename_key("backbone.layer3.5.bn2.running_var") == "backbone.layer3.5.bn2.running_var"
