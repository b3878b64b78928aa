"""MMDetection's names for the weights -> ours; every key accounted for."""

import re
from collections.abc import Mapping

from torch import Tensor

from model.checkpoint import CheckpointError

# Applied in order to every key; the backbone's names are torchvision's on both sides.
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^neck\.lateral_convs\.(\d)\.conv\.", r"fpn.pyramid.inner_blocks.\1.0."),
        (r"^neck\.fpn_convs\.(\d)\.conv\.", r"fpn.pyramid.layer_blocks.\1.0."),
        (r"^mask_head\.mask_feature_head\.conv_pred\.", "mask_feature.projection."),
        (
            r"^mask_head\.mask_feature_head\.convs_all_levels\.(\d)\.conv(\d)\.",
            r"mask_feature.levels.\1.\2.",
        ),
        (r"^mask_head\.cls_convs\.", "head.category_tower."),
        (r"^mask_head\.kernel_convs\.", "head.kernel_tower."),
        (r"^mask_head\.conv_cls\.", "head.category."),
        (r"^mask_head\.conv_kernel\.", "head.kernel."),
        (r"\.gn\.(weight|bias)$", r".norm.\1"),
        (r"\.conv_offset\.", ".offset."),
    )
)


def rename_key(key: str) -> str:
    """Our name for one entry of an MMDetection SOLOv2 state_dict."""
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key


def convert_state_dict(
    source: Mapping[str, Tensor], target_shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Rename MMDetection's entries to ours.

    Args:
        source: MMDetection's state_dict of a SOLOv2 model.
        target_shapes: Every key of our network and its shape.

    Raises:
        CheckpointError: A key of either side has no partner, or a shape differs; all are listed.
    """
    renamed = {rename_key(key): value for key, value in source.items()}
    faults = [f"{key}: not part of this network" for key in renamed.keys() - target_shapes.keys()]
    faults += [f"{key}: missing" for key in target_shapes.keys() - renamed.keys()]
    faults += [
        f"{key}: shape {tuple(renamed[key].shape)}, expected {shape}"
        for key, shape in target_shapes.items()
        if key in renamed and tuple(renamed[key].shape) != tuple(shape)
    ]
    if faults:
        raise CheckpointError("the weights do not fit: " + "; ".join(sorted(faults)))
    return renamed
