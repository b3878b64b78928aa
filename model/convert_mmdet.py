"""Published SOLOv2 weights of MMDetection and WXinlong/SOLO -> ours; every key accounted for.

Their ``.pth`` files are pickles. They are read without running anything in them: a file that
needs more than tensors, numbers, text and containers is refused.
"""

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from model.config import COCO_CLASSES, VARIANTS, SOLOv2Config
from model.solov2 import build_solov2

# Applied in order to every key; the backbone's names are torchvision's on both sides.
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^module\.", ""),
        # WXinlong/SOLO -> MMDetection
        (r"^bbox_head\.cate_convs\.", "mask_head.cls_convs."),
        (r"^bbox_head\.kernel_convs\.", "mask_head.kernel_convs."),
        (r"^bbox_head\.solo_cate\.", "mask_head.conv_cls."),
        (r"^bbox_head\.solo_kernel\.", "mask_head.conv_kernel."),
        (r"^mask_feat_head\.conv_pred\.0\.", "mask_head.mask_feature_head.conv_pred."),
        (r"^mask_feat_head\.", "mask_head.mask_feature_head."),
        # deformable convolutions before mmcv's version 2 of them
        (r"^(backbone\..*\.conv2)_offset\.", r"\1.conv_offset."),
        # MMDetection -> ours
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

# How torch's restricted unpickler names what it refuses to look up.
_REFUSED_OBJECT = re.compile(r"GLOBAL ([\w.]{1,80})")

_PLAIN_TYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.complex64, torch.complex128),  # told by their type in the list of what does not fit
}
_COUNTER = ".num_batches_tracked"
_MAX_CLASSES = 100_000
_MAX_NAME_CHARS = 200

#: The architectures MMDetection has; r50_1x and r50_3x are one, so the former is only ever named.
OFFICIAL_VARIANTS = tuple(
    name for name, config in VARIANTS.items() if config.backbone.startswith("resne")
)


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What ``convert_file`` found and wrote."""

    variant: str
    class_names: tuple[str, ...]
    entries: int


def convert_file(
    source: Path, out: Path, *, variant: str | None = None, half: bool = False
) -> ConversionReport:
    """Write a published file as a safetensors file of ours.

    Args:
        source: See ``read_mmdet_checkpoint``.
        out: Ends in ``.safetensors``; replaced if it exists.
        variant: The architecture; found out unless given.
        half: Store float16, which halves the file and moves scores by about a thousandth.

    Raises:
        CheckpointError: ``source`` cannot be used, or ``out`` has another suffix.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out}: the converted file has to end in .safetensors")
    checkpoint = read_mmdet_checkpoint(source, variant=variant)
    save_checkpoint(out, checkpoint, dtype=torch.float16 if half else torch.float32)
    config = checkpoint.config
    return ConversionReport(config.variant, config.class_names, len(checkpoint.state_dict))


def read_mmdet_checkpoint(path: Path, *, variant: str | None = None) -> Checkpoint:
    """Read a published ``.pth`` of MMDetection 2.x or 3.x, or of WXinlong/SOLO.

    The class names are the file's own where their number is that of the network's outputs, else
    COCO's for 80 outputs, else ``class_0`` and so on. Preprocessing is the variant's.

    Args:
        path: The file; nothing in it is run.
        variant: One of ``OFFICIAL_VARIANTS``; the one whose names and shapes fit unless given.

    Returns:
        The checkpoint, its floating-point tensors as float32.

    Raises:
        CheckpointError: The file is missing, damaged, needs code to be read, or is no SOLOv2 of
            that variant; then every entry that does not fit is listed.
    """
    content = _load(path)
    state = content.get("state_dict", content)
    try:
        source = _tensors(state)
        shapes = {rename_key(key): tuple(value.shape) for key, value in source.items()}
        name = _choose_variant(shapes, variant)
        classes = _class_names(content.get("meta"), _class_count(shapes))
        config = replace(VARIANTS[name], class_names=classes)
        return Checkpoint(config, convert_state_dict(source, network_shapes(config)))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def rename_key(key: str) -> str:
    """Our name for one entry of an MMDetection or WXinlong/SOLO state_dict."""
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key


def convert_state_dict(
    source: Mapping[str, Tensor], target_shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Rename the original's entries to ours; floating-point tensors become float32.

    BatchNorm's step counters, which inference never reads and old files lack, start at zero.

    Args:
        source: State_dict of a SOLOv2 model under the original's names.
        target_shapes: Every key of our network and its shape.

    Raises:
        CheckpointError: A key of either side has no partner or several, or a shape or type
            differs; all are listed.
    """
    renamed: dict[str, Tensor] = {}
    theirs: dict[str, str] = {}  # our name -> the one in the file, for the list of faults
    faults = []
    for key, value in source.items():
        name = rename_key(key)
        if name in renamed:
            faults.append(f"{key}: stands there twice, under another name as well")
        renamed[name], theirs[name] = value, key
    for key in target_shapes.keys() - renamed.keys():
        if key.endswith(_COUNTER):
            renamed[key] = torch.zeros((), dtype=torch.int64)
    surplus = renamed.keys() - target_shapes.keys()
    faults += [f"{theirs[key]}: not part of this network" for key in surplus]
    faults += [f"{key}: missing" for key in target_shapes.keys() - renamed.keys()]
    for key in target_shapes.keys() & renamed.keys():
        faults += _misfits(theirs.get(key, key), renamed[key], target_shapes[key])
    if faults:
        raise CheckpointError("the weights do not fit: " + "; ".join(sorted(faults)))
    return {key: _as_stored(renamed[key]) for key in target_shapes}


@lru_cache(maxsize=16)
def network_shapes(config: SOLOv2Config) -> Mapping[str, tuple[int, ...]]:
    """Every key of our network and its shape."""
    with torch.device("meta"):
        network = build_solov2(config)
    return MappingProxyType(
        {key: tuple(value.shape) for key, value in network.state_dict().items()}
    )


def _misfits(key: str, value: Tensor, shape: tuple[int, ...]) -> list[str]:
    faults = []
    if tuple(value.shape) != tuple(shape):
        faults.append(f"{key}: shape {tuple(value.shape)}, expected {tuple(shape)}")
    if value.is_floating_point() == key.endswith(_COUNTER):
        faults.append(f"{key}: unexpected type {str(value.dtype).removeprefix('torch.')}")
    return faults


def _as_stored(value: Tensor) -> Tensor:
    value = value.detach().contiguous()
    return value.float() if value.is_floating_point() else value.long()


def _load(path: Path) -> Mapping[Any, Any]:
    """The dictionary in a ``torch.save`` file, of the zip format or the older one."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path}: not a published .pth; .safetensors files are used as they are"
        )
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; the outcome says it all
            content = torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(f"{path}: {_reason(error)}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a state_dict")
    return content


def _reason(error: Exception) -> str:
    refused = _REFUSED_OBJECT.search(str(error))
    if not isinstance(error, pickle.UnpicklingError) or refused is None:
        return "not a PyTorch file, or a damaged one"
    return (
        f"holds an object ({refused[1]}) that could only be read by running code; publish the "
        "checkpoint first with MMDetection's tools/model_converters/publish_model.py, which keeps "
        "the weights and drops the rest"
    )


def _tensors(state: object) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        raise CheckpointError(f"its state_dict is a {type(state).__name__}")
    faults = [f"{key}: not a tensor" for key, value in state.items() if not _is_plain(value)]
    if not any(rename_key(str(key)).startswith("head.") for key in state):
        raise CheckpointError("no SOLOv2 checkpoint of MMDetection or WXinlong/SOLO")
    if faults:
        raise CheckpointError("the weights do not fit: " + "; ".join(faults))
    return {str(key): Tensor.detach(value) for key, value in state.items()}


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in _PLAIN_TYPES
    )


def _choose_variant(shapes: Mapping[str, tuple[int, ...]], named: str | None) -> str:
    """The variant that was named, or the one that differs from ``shapes`` in fewest entries."""
    _refuse_unmodulated(shapes)
    if named is None:
        entries = shapes.items()
        candidates = [name for name in OFFICIAL_VARIANTS if name != "r50_1x"]
        return min(
            candidates, key=lambda name: len(entries ^ network_shapes(VARIANTS[name]).items())
        )
    if named not in OFFICIAL_VARIANTS:
        known = ", ".join(OFFICIAL_VARIANTS)
        raise CheckpointError(f"no variant {named!r}; MMDetection has {known}")
    return named


def _refuse_unmodulated(shapes: Mapping[str, tuple[int, ...]]) -> None:
    for key, shape in shapes.items():
        if key.endswith(".offset.weight") and len(shape) == 4:
            taps = shape[2] * shape[3]
            if shape[0] == 2 * taps:
                raise CheckpointError(
                    f"a DCNv1 checkpoint: {key} has {shape[0]} channels, offsets alone, where "
                    f"DCNv2 has {3 * taps}; every variant here modulates its deformable "
                    "convolutions (DCNv2), and the lacking weights cannot be made up"
                )


def _class_count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Outputs of the category branch; COCO's where the file's cannot be right."""
    shape = shapes.get("head.category.bias", ())
    return shape[0] if len(shape) == 1 and 0 < shape[0] <= _MAX_CLASSES else len(COCO_CLASSES)


def _class_names(meta: object, count: int) -> tuple[str, ...]:
    for names in (_lookup(_lookup(meta, "dataset_meta"), "classes"), _lookup(meta, "classes")):
        if isinstance(names, str):  # ("person") is no tuple: a common slip in configs
            names = [names]
        if isinstance(names, list | tuple) and len(names) == count and all(map(_is_name, names)):
            return tuple(names)
    if count == len(COCO_CLASSES):
        return COCO_CLASSES
    return tuple(f"class_{index}" for index in range(count))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MAX_NAME_CHARS


def _lookup(mapping: object, name: str) -> object:
    """The entry of that name in any case; None where there is none, or no mapping."""
    if not isinstance(mapping, Mapping):
        return None
    return next((v for k, v in mapping.items() if isinstance(k, str) and k.lower() == name), None)
