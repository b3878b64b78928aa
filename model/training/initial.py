"""The network that training starts from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from model.checkpoint import Checkpoint, CheckpointError, find_weights, load_checkpoint
from model.config import VARIANTS, PreprocessConfig, SOLOv2Config
from model.convert_mmdet import read_mmdet_checkpoint
from model.solov2 import SOLOv2, build_solov2

# What a plain classification backbone lacks: offsets start at zero, counters are not used.
_OPTIONAL = ("num_batches_tracked", "offset.weight", "offset.bias")
_CLASS_ROWS = ("head.category.weight", "head.category.bias")


def initial_network(
    class_names: Sequence[str],
    *,
    variant: str,
    weights: Path | None,
    backbone_weights: Path | None,
    short_side: int | None = None,
    long_side: int | None = None,
) -> tuple[SOLOv2, SOLOv2Config]:
    """Build the network and load what there is to start from.

    Args:
        class_names: C names in label order.
        variant: Architecture, where ``weights`` does not bring its own.
        weights: A checkpoint of ours, a published ``.pth``, or a folder that holds one of them.
        backbone_weights: State dict with torchvision's names.
        short_side: Of the pictures it will be asked about, pixels; as it was unless given.
        long_side: Likewise.

    Raises:
        CheckpointError: A file is missing, damaged, or of another architecture.
        ValueError: The short side does not fit into the long one.
    """
    checkpoint = None if weights is None else _read(find_weights(weights))
    base = VARIANTS[variant] if checkpoint is None else checkpoint.config
    sides = _sides(base.preprocess, short_side, long_side)
    config = replace(base, class_names=tuple(class_names), preprocess=sides)
    model = build_solov2(config)
    if checkpoint is not None:
        state_dict = match_classes(
            checkpoint.state_dict, base.class_names, class_names, model.state_dict()
        )
        model.load_state_dict(state_dict)
    if backbone_weights is not None:
        load_backbone(model.backbone, backbone_weights)
    return model, config


def _read(path: Path) -> Checkpoint:
    published = path.suffix in (".pth", ".pt")
    return read_mmdet_checkpoint(path) if published else load_checkpoint(path)


def _sides(
    base: PreprocessConfig, short_side: int | None, long_side: int | None
) -> PreprocessConfig:
    short, long = short_side or base.short_side, long_side or base.long_side
    if short > long:
        raise ValueError(f"short sides of {short} pixels do not fit into long ones of {long}")
    return replace(base, short_side=short, long_side=long)


def match_classes(
    trained: Mapping[str, Tensor],
    old_names: Sequence[str],
    new_names: Sequence[str],
    fresh: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """``trained`` with the class rows in the order of ``new_names``.

    Classes that ``old_names`` does not hold get the rows of ``fresh``.
    """
    result = dict(trained)
    for key in _CLASS_ROWS:
        rows = [
            trained[key][list(old_names).index(name)] if name in old_names else fresh[key][label]
            for label, name in enumerate(new_names)
        ]
        result[key] = torch.stack(rows)
    return result


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Load a state dict with torchvision's names; what is no part of the backbone is ignored.

    Raises:
        CheckpointError: The file is unreadable, or misses or misshapes a tensor.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling a damaged file raises
        raise CheckpointError(
            f"{path}: not a readable state dict ({type(error).__name__})"
        ) from error
    wanted = backbone.state_dict()
    missing = [k for k in wanted if k not in stored and not k.endswith(_OPTIONAL)]
    if missing:
        raise CheckpointError(f"{path}: lacks {len(missing)} tensors, the first is {missing[0]}")
    found = {k: stored[k] for k in wanted if k in stored}
    for key, tensor in found.items():
        if tensor.shape != wanted[key].shape:
            raise CheckpointError(
                f"{path}: {key} is {tuple(tensor.shape)}, not {tuple(wanted[key].shape)}"
            )
    backbone.load_state_dict(found, strict=False)
