import pytest
import torch
import torchvision
from torch.fx.experimental.optimization import fuse

from model.backbone import build_backbone
from model.layers import DeformableConv


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_the_maps_stand_at_strides_4_to_32_with_the_channels_promised(name: str) -> None:
    backbone = build_backbone(name, deformable=False).eval()

    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 64, 96))

    assert tuple(m.shape[1] for m in maps) == backbone.channels
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_resnet_computes_what_torchvisions_does() -> None:
    whole = torchvision.models.resnet18(weights=None).eval()
    backbone = build_backbone("resnet18", deformable=False).eval()
    backbone.load_state_dict(
        {key: value for key, value in whole.state_dict().items() if not key.startswith("fc.")}
    )
    images = torch.randn(1, 3, 64, 64)

    with torch.no_grad():
        pooled = backbone(images)[-1].mean((2, 3))

        torch.testing.assert_close(whole.fc(pooled), whole(images))


def test_folded_mobilenet_computes_what_torchvisions_does_with_its_norms_folded_in() -> None:
    whole = torchvision.models.mobilenet_v2(weights=None).eval()
    backbone = build_backbone("mobilenet_v2", deformable=False).eval()
    fused = fuse(whole)
    wanted = backbone.state_dict().keys()
    backbone.load_state_dict({k: v for k, v in fused.state_dict().items() if k in wanted})
    images = torch.randn(1, 3, 64, 64)

    with torch.no_grad():
        torch.testing.assert_close(backbone(images)[-1], whole.features[:18](images))


def test_deformable_layers_are_the_middle_convolutions_of_layers_two_to_four() -> None:
    backbone = build_backbone("resnet50", deformable=True)

    found = [name for name, m in backbone.named_modules() if isinstance(m, DeformableConv)]

    assert len(found) == 4 + 6 + 3
    assert all(name.endswith(".conv2") and not name.startswith("layer1") for name in found)


@pytest.mark.parametrize(
    ("name", "deformable"), [("vgg16", False), ("mobilenet_v2", True)], ids=str
)
def test_a_backbone_that_cannot_be_built_is_refused_by_name(name: str, deformable: bool) -> None:
    with pytest.raises(ValueError, match=name):
        build_backbone(name, deformable=deformable)
