"""One safetensors file = weights, architecture, class names and preprocessing.

The header's ``solov2`` entry is JSON: ``{"format": 1, "config": {...}}`` with the fields of
``SOLOv2Config``. Nothing in such a file can run code.
"""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model.config import PreprocessConfig, SOLOv2Config

FORMAT = 1


class CheckpointError(ValueError):
    """A weights file that cannot be used; the text is one line naming the file and why."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network's numbers and what they mean."""

    config: SOLOv2Config
    state_dict: Mapping[str, Tensor]


def save_checkpoint(
    path: Path, checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float16
) -> None:
    """Write atomically, floating-point tensors as ``dtype``.

    Raises:
        CheckpointError: A finite weight is too large for ``dtype``.
    """
    tensors = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for key, value in checkpoint.state_dict.items()
    }
    for key, value in checkpoint.state_dict.items():
        if (tensors[key].isinf() & ~value.isinf()).any():
            name = str(dtype).removeprefix("torch.")
            raise CheckpointError(f"{path}: {key} holds numbers too large for {name}")
    header = {"format": FORMAT, "config": dataclasses.asdict(checkpoint.config)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / "unfinished"  # no name by which a model folder is searched
        unfinished.write_bytes(save(tensors, metadata={"solov2": json.dumps(header)}))
        unfinished.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file of ours; floating-point tensors come back as float32.

    Raises:
        CheckpointError: The file is missing, damaged, or no SOLOv2 file of this format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("solov2")
            if header is None:
                raise CheckpointError(f"{path}: a safetensors file, but not a SOLOv2 checkpoint")
            state_dict = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: not a readable safetensors file ({reason})") from error
    return Checkpoint(
        _config_from_header(path, header),
        {k: v.float() if v.is_floating_point() else v for k, v in state_dict.items()},
    )


def _config_from_header(path: Path, header: str) -> SOLOv2Config:
    try:
        content = json.loads(header)
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{path}: format {content['format']}, this version reads {FORMAT}"
            )
        fields = {key: _tuples(value) for key, value in content["config"].items()}
        preprocess = {key: _tuples(value) for key, value in fields.pop("preprocess").items()}
        return SOLOv2Config(**fields, preprocess=PreprocessConfig(**preprocess))
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its SOLOv2 header cannot be understood ({error})"
        ) from error


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def file_sha256(path: Path) -> str:
    """Hex digest of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_weights(path: Path) -> Path:
    """The weights file that ``path`` is or, for a folder, the only one anywhere below it.

    Raises:
        CheckpointError: Nothing is there, or several files could be meant.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such weights file")
    for suffix in (".safetensors", ".pth"):
        found = sorted(path.rglob(f"*{suffix}"))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(str(file.relative_to(path)) for file in found[:5])
            raise CheckpointError(f"{path}: {len(found)} {suffix} files, expected one: {names}")
    raise CheckpointError(f"{path}: no .safetensors or .pth file in this folder")
