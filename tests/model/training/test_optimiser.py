from dataclasses import replace

import pytest
import torch
from torch import nn

from model.backbone import ResNetBackbone
from model.config import SOLOv2Config
from model.solov2 import SOLOv2, build_solov2
from model.training.config import TrainConfig
from model.training.optimiser import (
    build_optimiser,
    freeze_stages,
    learning_rate_factor,
    set_learning_rate,
    set_training_mode,
)


@pytest.fixture(scope="module")
def resnet_model() -> SOLOv2:
    return build_solov2(
        SOLOv2Config(
            backbone="resnet18",
            fpn_channels=8,
            head_channels=8,
            head_depth=1,
            mask_hidden_channels=8,
            mask_channels=8,
            norm_groups=2,
        )
    )


@pytest.mark.parametrize(
    ("iteration", "factor"), [(0, 1), (269, 1), (270, 0.1), (329, 0.1), (330, 0.01), (359, 0.01)]
)
def test_steps_are_those_of_the_official_3x_schedule(iteration: int, factor: float) -> None:
    result = learning_rate_factor(iteration, total=360, warmup=0, schedule="step")

    assert result == pytest.approx(factor)


@pytest.mark.parametrize(("iteration", "factor"), [(0, 1), (25, 0.853553), (50, 0.5), (100, 0)])
def test_a_cosine_leads_from_the_peak_to_zero(iteration: int, factor: float) -> None:
    result = learning_rate_factor(iteration, total=100, warmup=0, schedule="cosine")

    assert result == pytest.approx(factor, abs=1e-6)


@pytest.mark.parametrize(("iteration", "factor"), [(0, 0.001), (5, 0.5005), (10, 1)])
def test_warm_up_is_a_line_from_a_thousandth(iteration: int, factor: float) -> None:
    result = learning_rate_factor(iteration, total=1000, warmup=10, schedule="step")

    assert result == pytest.approx(factor)


def test_the_backbone_has_its_own_rate(resnet_model: SOLOv2, config: TrainConfig) -> None:
    optimiser = build_optimiser(resnet_model, replace(config, backbone_lr_factor=0.1))

    set_learning_rate(optimiser, 0.5)

    rates = {id(p): g["lr"] for g in optimiser.param_groups for p in g["params"]}
    assert rates[id(resnet_model.backbone.conv1.weight)] == pytest.approx(0.05)
    assert rates[id(resnet_model.head.kernel.weight)] == 0.5
    assert len(rates) == len(list(resnet_model.parameters()))


def test_adamw_decays_neither_biases_nor_norms(resnet_model: SOLOv2, config: TrainConfig) -> None:
    optimiser = build_optimiser(resnet_model, replace(config, optimiser="adamw"))

    assert isinstance(optimiser, torch.optim.AdamW)
    decay = {id(p): g["weight_decay"] for g in optimiser.param_groups for p in g["params"]}
    assert decay[id(resnet_model.head.kernel.weight)] == config.weight_decay
    assert decay[id(resnet_model.head.kernel.bias)] == 0
    assert decay[id(resnet_model.backbone.bn1.weight)] == 0


def test_sgd_decays_everything_and_has_momentum(resnet_model: SOLOv2, config: TrainConfig) -> None:
    optimiser = build_optimiser(resnet_model, config)

    assert isinstance(optimiser, torch.optim.SGD)
    assert {g["weight_decay"] for g in optimiser.param_groups} == {config.weight_decay}
    assert {g["momentum"] for g in optimiser.param_groups} == {config.momentum}


def test_frozen_stages_are_left_to_the_optimiser_by_none(config: TrainConfig) -> None:
    backbone = ResNetBackbone("resnet18")

    freeze_stages(backbone, 1)

    frozen = {name.split(".")[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}


def test_batch_norms_keep_their_statistics_in_training(resnet_model: SOLOv2) -> None:
    resnet_model.eval()

    set_training_mode(resnet_model)

    norms = [m for m in resnet_model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert resnet_model.head.training
