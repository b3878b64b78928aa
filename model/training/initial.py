"""The network that training starts from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from model.checkpoint import CheckpointError, load_checkpoint
from model.config import VARIANTS, SOLOv2Config
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
) -> tuple[SOLOv2, SOLOv2Config]:
    """Build the network and load what there is to start from.

    Args:
        class_names: C names in label order.
        variant: Architecture, where ``weights`` does not bring its own.
        weights: A checkpoint of ours.
        backbone_weights: State dict with torchvision's names.

    Raises:
        CheckpointError: A file is missing, damaged, or of another architecture.
    """
    checkpoint = None if weights is None else load_checkpoint(weights)
    base = VARIANTS[variant] if checkpoint is None else checkpoint.config
    config = replace(base, class_names=tuple(class_names))
    model = build_solov2(config)
    if checkpoint is not None:
        state_dict = match_classes(
            checkpoint.state_dict, base.class_names, class_names, model.state_dict()
        )
        model.load_state_dict(state_dict)
    if backbone_weights is not None:
        load_backbone(model.backbone, backbone_weights)
    return model, config


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
