from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from goldens import official_keys

from model.backbone import MobileNetV2Backbone, ResNetBackbone
from model.checkpoint import CheckpointError, load_checkpoint
from model.config import COCO_CLASSES
from model.training.initial import initial_network, load_backbone, match_classes


def test_shared_classes_keep_their_weights_and_new_ones_start_fresh(tiny_weights: Path) -> None:
    torch.manual_seed(1)

    model, config = initial_network(
        ("green", "blue"), variant="mobile", weights=tiny_weights, backbone_weights=None
    )

    trained = load_checkpoint(tiny_weights).state_dict
    assert config.variant == "tiny"
    assert config.class_names == ("green", "blue")
    state = model.state_dict()
    assert torch.equal(state["head.category.weight"][1], trained["head.category.weight"][1])
    assert not torch.isin(state["head.category.weight"][0], trained["head.category.weight"]).all()
    others = [key for key in state if not key.startswith("head.category.")]
    assert [key for key in others if not torch.equal(state[key], trained[key])] == []


def test_a_published_checkpoint_is_a_start_too(tmp_path: Path) -> None:
    """Its classes are COCO's, of which this keeps one and adds another."""
    published = {
        key: torch.tensor(0) if key.endswith("num_batches_tracked") else torch.rand(shape)
        for key, shape in official_keys("light_r18_3x").items()
    }
    torch.save({"state_dict": published}, tmp_path / "solov2_light_r18.pth")

    model, config = initial_network(
        ("carton", "bottle"), variant="mobile", weights=tmp_path, backbone_weights=None
    )

    assert (config.variant, config.class_names) == ("light_r18_3x", ("carton", "bottle"))
    state = model.state_dict()
    bottle = COCO_CLASSES.index("bottle")
    classes = published["mask_head.conv_cls.weight"]
    assert torch.equal(state["head.category.weight"][1], classes[bottle])
    assert not torch.isin(state["head.category.weight"][0], classes).any()
    assert torch.equal(state["backbone.conv1.weight"], published["backbone.conv1.weight"])


def test_sides_are_those_asked_for(tiny_weights: Path) -> None:
    options: dict[str, Any] = {"variant": "", "weights": tiny_weights, "backbone_weights": None}

    _, config = initial_network(("red",), **options, short_side=96, long_side=128)

    assert (config.preprocess.short_side, config.preprocess.long_side) == (96, 128)
    with pytest.raises(ValueError, match="96 pixels do not fit into long ones of 64"):
        initial_network(("red",), **options, short_side=96)


def test_classes_are_matched_by_name_in_any_order() -> None:
    trained = {
        "head.category.weight": torch.arange(3)[:, None],
        "head.category.bias": torch.arange(3),
    }
    fresh = {key: torch.full_like(value, -1) for key, value in trained.items()}

    matched = match_classes(trained, ["a", "b", "c"], ["c", "x", "a"], fresh)

    assert matched["head.category.bias"].tolist() == [2, -1, 0]
    assert matched["head.category.weight"].flatten().tolist() == [2, -1, 0]


def test_without_weights_the_variant_decides(tmp_path: Path) -> None:
    model, config = initial_network(
        ("one", "two", "three"), variant="mobile", weights=None, backbone_weights=None
    )

    assert config.variant == "mobile"
    assert model.head.category.out_channels == 3


def test_a_classifiers_state_dict_fills_the_backbone(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    backbone = ResNetBackbone("resnet18")

    load_backbone(backbone, tmp_path / "resnet18.pth")

    assert torch.equal(backbone.layer4[1].conv2.weight, network.layer4[1].conv2.weight)


def test_folded_weights_fill_the_mobile_backbone(tmp_path: Path) -> None:
    source = MobileNetV2Backbone()
    state = {key: torch.randn_like(value) for key, value in source.state_dict().items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(2, 2)}, tmp_path / "folded.pth")
    backbone = MobileNetV2Backbone()

    load_backbone(backbone, tmp_path / "folded.pth")

    loaded = backbone.state_dict()
    assert [key for key in state if not torch.equal(state[key], loaded[key])] == []


def test_a_file_for_another_backbone_is_refused(tmp_path: Path) -> None:
    torch.save(MobileNetV2Backbone().state_dict(), tmp_path / "mobile.pth")

    with pytest.raises(CheckpointError, match=r"mobile\.pth: lacks \d+ tensors"):
        load_backbone(ResNetBackbone("resnet18"), tmp_path / "mobile.pth")


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    state = MobileNetV2Backbone().state_dict()
    state["features.0.0.bias"] = torch.zeros(5)
    torch.save(state, tmp_path / "mobile.pth")

    with pytest.raises(CheckpointError, match=r"features\.0\.0\.bias is \(5,\), not \(32,\)"):
        load_backbone(MobileNetV2Backbone(), tmp_path / "mobile.pth")


class Payload:
    """What a file that is out to harm would hold: unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_backbone_file_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Payload(tmp_path / "proof")}, tmp_path / "evil.pth")

    with pytest.raises(CheckpointError, match="not a readable state dict"):
        load_backbone(ResNetBackbone("resnet18"), tmp_path / "evil.pth")

    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("content", [b"", b"nothing of the kind"])
def test_an_unreadable_backbone_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pth").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"broken\.pth: not a readable state dict"):
        load_backbone(MobileNetV2Backbone(), tmp_path / "broken.pth")
