"""Parameter groups and the learning rate's course."""

import itertools
import math
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from model.backbone import MobileNetV2Backbone, ResNetBackbone
from model.solov2 import SOLOv2
from model.training.config import TrainConfig

_WARMUP_START = 1e-3  # of the peak rate, MMDetection's 1x schedule
_DROPS = (27 / 36, 33 / 36)  # MMDetection's 3x schedule


def learning_rate_factor(
    iteration: int, *, total: int, warmup: int, schedule: Literal["cosine", "step"]
) -> float:
    """Share of the peak learning rate at ``iteration`` of ``total``, both counted from 0."""
    progress = iteration / total
    if schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        factor = 0.1 ** sum(progress >= drop for drop in _DROPS)
    if iteration < warmup:
        factor *= _WARMUP_START + (1 - _WARMUP_START) * iteration / warmup
    return factor


def build_optimiser(model: SOLOv2, config: TrainConfig) -> Optimizer:
    """SGD or AdamW over what is not frozen.

    Every group has an ``lr_factor`` beside its rate. AdamW leaves biases and norms undecayed;
    SGD decays all, as MMDetection does.
    """
    groups = []
    for part, lr_factor in _parts(model, config.backbone_lr_factor):
        for decayed in (True, False):
            parameters = [
                p
                for p in part
                if p.requires_grad and decayed == (config.optimiser == "sgd" or p.ndim > 1)
            ]
            weight_decay = config.weight_decay if decayed else 0.0
            groups.append(
                {"params": parameters, "lr_factor": lr_factor, "weight_decay": weight_decay}
            )
    groups = [group for group in groups if group["params"]]
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _parts(model: SOLOv2, backbone_lr_factor: float) -> list[tuple[list[nn.Parameter], float]]:
    """The backbone's and the other parameters, with the factor of their learning rate."""
    own = list(model.backbone.parameters())
    ids = {id(p) for p in own}
    others = [p for p in model.parameters() if id(p) not in ids]
    return [(own, backbone_lr_factor), (others, 1.0)]


def set_learning_rate(optimiser: Optimizer, learning_rate: float) -> None:
    """Give every group this rate times its own factor."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group["lr_factor"]


def freeze_stages(backbone: ResNetBackbone | MobileNetV2Backbone, stages: int) -> None:
    """Keep the stem and the first ``stages`` stages as they are; 0 freezes nothing."""
    for module in _stages(backbone)[:stages]:
        module.requires_grad_(requires_grad=False)


def _stages(backbone: ResNetBackbone | MobileNetV2Backbone) -> list[nn.Module]:
    """The parts that end at C2, C3, C4 and C5."""
    if isinstance(backbone, MobileNetV2Backbone):
        ends = (0, 4, 7, 14, 18)
        return [backbone.features[a:b] for a, b in itertools.pairwise(ends)]
    first = nn.ModuleList([backbone.conv1, backbone.bn1, backbone.layer1])
    return [first, backbone.layer2, backbone.layer3, backbone.layer4]


def set_training_mode(model: SOLOv2) -> None:
    """Training mode, except that batch norms keep their statistics (``norm_eval``).

    Batches of detectors are too small to estimate new ones.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
