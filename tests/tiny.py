"""A network small enough for tests, with chance weights that find something."""

from dataclasses import replace
from pathlib import Path

import torch

from model.checkpoint import Checkpoint, save_checkpoint
from model.config import VARIANTS, PreprocessConfig, SOLOv2Config
from model.solov2 import build_solov2

TINY = replace(
    VARIANTS["mobile"],
    fpn_channels=16,
    head_channels=16,
    mask_hidden_channels=16,
    mask_channels=16,
    norm_groups=4,
    preprocess=PreprocessConfig(long_side=128, short_side=96),
)


def save_tiny(path: Path, config: SOLOv2Config = TINY) -> Path:
    """Write such a network as a weights file; the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_solov2(config)
    with torch.no_grad():  # logits far enough apart for some to pass the thresholds
        network.head.category.weight *= 30
        network.head.category.bias += 4
        network.head.kernel.weight *= 30
    save_checkpoint(path, Checkpoint(config, network.state_dict()), dtype=torch.float32)
    return path
