import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint import (
    Checkpoint,
    CheckpointError,
    file_sha256,
    find_weights,
    load_checkpoint,
    save_checkpoint,
)
from model.config import VARIANTS, PreprocessConfig

CONFIG = replace(
    VARIANTS["mobile"],
    class_names=("traffic light", "käse"),
    preprocess=PreprocessConfig(mean=(1, 2, 3), long_side=640),
)
TENSORS = {"a.weight": torch.tensor([[0.5, -2.0]]), "a.count": torch.tensor(7)}


def test_a_saved_checkpoint_comes_back_with_its_config_and_values(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.safetensors"

    save_checkpoint(path, Checkpoint(CONFIG, TENSORS))
    loaded = load_checkpoint(path)

    assert loaded.config == CONFIG
    assert loaded.state_dict.keys() == TENSORS.keys()
    assert loaded.state_dict["a.weight"].dtype == torch.float32
    assert torch.equal(loaded.state_dict["a.weight"], TENSORS["a.weight"])
    assert loaded.state_dict["a.count"].dtype == torch.int64


def test_half_precision_halves_the_file_and_nothing_unfinished_stays(tmp_path: Path) -> None:
    state = {"w": torch.randn(100_000)}

    for name, dtype in (("half", torch.float16), ("full", torch.float32)):
        save_checkpoint(tmp_path / name, Checkpoint(CONFIG, state), dtype=dtype)

    assert (tmp_path / "full").stat().st_size - (tmp_path / "half").stat().st_size == 200_000
    assert {path.name for path in tmp_path.iterdir()} == {"half", "full"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a readable safetensors file"),
        (b"\x80\x04 this is a pickle", "not a readable safetensors file"),
        (b"\xff" * 64, "not a readable safetensors file"),
    ],
    ids=["empty", "pickle", "noise"],
)
def test_a_damaged_file_is_named_with_the_reason_in_one_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)

    with pytest.raises(CheckpointError) as failure:
        load_checkpoint(path)

    assert str(failure.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(failure.value)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_checkpoint(path, Checkpoint(CONFIG, TENSORS))
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors: no such weights file"):
        load_checkpoint(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "not a SOLOv2 checkpoint"),
        ({"solov2": "{"}, "cannot be understood"),
        ({"solov2": "[]"}, "cannot be understood"),
        ({"solov2": json.dumps({"format": 99})}, "format 99, this version reads 1"),
        ({"solov2": json.dumps({"format": 1, "config": {"depth": 3}})}, "cannot be understood"),
    ],
    ids=["foreign", "no json", "no object", "newer format", "unknown field"],
)
def test_a_safetensors_file_that_is_not_ours_is_refused(
    tmp_path: Path, metadata: dict[str, str], reason: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_file(TENSORS, path, metadata=metadata)

    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(path)


def test_a_folder_stands_for_the_only_weights_file_below_it(tmp_path: Path) -> None:
    nested = tmp_path / "model" / "1"
    nested.mkdir(parents=True)
    (nested / "notes.txt").touch()
    (nested / "official.pth").touch()

    assert find_weights(tmp_path) == nested / "official.pth"

    (nested / "ours.safetensors").touch()

    assert find_weights(tmp_path) == nested / "ours.safetensors"


def test_a_folder_with_two_candidates_lists_them(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).touch()

    with pytest.raises(CheckpointError, match=r"2 \.safetensors files.*a\.safetensors, b\.saf"):
        find_weights(tmp_path)


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no \.safetensors or \.pth file"):
        find_weights(tmp_path)


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")

    assert file_sha256(path).startswith("ba7816bf8f01cfea")


def test_weights_too_large_for_half_precision_are_refused_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "half.safetensors"
    checkpoint = Checkpoint(CONFIG, {"weight": torch.tensor([1.0, 7e4])})

    with pytest.raises(CheckpointError, match="weight holds numbers too large for float16"):
        save_checkpoint(path, checkpoint)

    assert list(tmp_path.iterdir()) == []
