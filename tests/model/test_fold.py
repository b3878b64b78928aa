import copy

import torch
from torch import nn

from model.backbone import ResNetBackbone
from model.fold import fold_batch_norms


def trained_backbone(*, deformable: bool) -> ResNetBackbone:
    """With norms that change what they get."""
    torch.manual_seed(0)
    backbone = ResNetBackbone("resnet18" if not deformable else "resnet50", deformable=deformable)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (module.bias, module.running_mean):
                nn.init.normal_(values, std=0.1)
    return backbone.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@torch.inference_mode()
def assert_folding_changes_nothing(backbone: ResNetBackbone, *, left: int) -> None:
    folded = copy.deepcopy(backbone)
    fold_batch_norms(folded)

    assert norms(folded) == left
    images = torch.randn(1, 3, 64, 96)
    for before, after in zip(backbone(images), folded(images), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_a_network_without_its_norms_computes_the_same() -> None:
    assert_folding_changes_nothing(trained_backbone(deformable=False), left=0)


def test_norms_behind_deformable_convolutions_stay() -> None:
    assert_folding_changes_nothing(trained_backbone(deformable=True), left=4 + 6 + 3)
