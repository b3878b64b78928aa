import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import GOLDEN, OFFICIAL, final_masks, load, official_keys, picture, seeded_state_dict
from torch import Tensor

from model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from model.config import COCO_CLASSES, VARIANTS, PreprocessConfig
from model.convert_mmdet import (
    OFFICIAL_VARIANTS,
    convert_file,
    convert_state_dict,
    network_shapes,
    read_mmdet_checkpoint,
    rename_key,
)
from model.predictor import Predictor

State = dict[str, Tensor]

LIGHT = "light_r18_3x"


def state_of(variant: str, *, classes: int = 80, dtype: torch.dtype = torch.float32) -> State:
    """An official state_dict whose tensors repeat one number each, so that files stay small."""
    state = {}
    for index, (key, shape) in enumerate(official_keys(variant).items()):
        if key.startswith("mask_head.conv_cls."):
            shape = (classes, *shape[1:])
        kind = torch.int64 if key.endswith("num_batches_tracked") else dtype
        state[key] = torch.tensor(index, dtype=kind).expand(shape)
    return state


def write(path: Path, content: object, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def as_solo(key: str) -> str:
    """WXinlong/SOLO's name for an entry of MMDetection's."""
    for ours, theirs in (
        ("mask_head.cls_convs.", "bbox_head.cate_convs."),
        ("mask_head.kernel_convs.", "bbox_head.kernel_convs."),
        ("mask_head.conv_cls.", "bbox_head.solo_cate."),
        ("mask_head.conv_kernel.", "bbox_head.solo_kernel."),
        ("mask_head.mask_feature_head.conv_pred.", "mask_feat_head.conv_pred.0."),
        ("mask_head.mask_feature_head.", "mask_feat_head."),
    ):
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


def published_2x(state: State) -> dict[str, Any]:
    ordered = OrderedDict(state)
    ordered._metadata = OrderedDict({"": {"version": 1}, "backbone": {"version": 2}})  # type: ignore[attr-defined]
    meta = {"mmdet_version": "2.24.1", "config": "model = dict()", "CLASSES": COCO_CLASSES}
    return {"meta": meta, "state_dict": ordered}


def published_3x(state: State) -> dict[str, Any]:
    dataset = {"classes": COCO_CLASSES, "palette": [(220, 20, 60)] * 80}
    meta = {"cfg": "model = dict()", "epoch": 36, "seed": 1, "dataset_meta": dataset}
    return {"meta": meta, "state_dict": state}


LAYOUTS: dict[str, tuple[Callable[[State], object], bool]] = {
    "2.x, older format": (published_2x, True),
    "2.x": (published_2x, False),
    "3.x": (published_3x, False),
    "3.x, older format": (published_3x, True),
    "bare": (lambda state: state, False),
    "bare, older format": (lambda state: state, True),
    "from DataParallel": (
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        False,
    ),
    "WXinlong/SOLO": (
        lambda state: {"state_dict": {as_solo(k): v for k, v in state.items()}},
        True,
    ),
    "WXinlong/SOLO, from DataParallel": (
        lambda state: {f"module.{as_solo(k)}": v for k, v in state.items()},
        True,
    ),
    "half precision": (
        lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
        False,
    ),
    "double precision": (
        lambda state: {k: v.double() if v.is_floating_point() else v for k, v in state.items()},
        True,
    ),
}


@pytest.mark.parametrize("variant", OFFICIAL)
def test_every_official_key_becomes_one_of_ours_and_none_is_left(variant: str) -> None:
    shapes = network_shapes(VARIANTS[variant])

    converted = convert_state_dict(state_of(variant), shapes)

    assert {key: tuple(value.shape) for key, value in converted.items()} == shapes


def test_what_does_not_fit_is_listed_whole() -> None:
    source = state_of(LIGHT)
    del source["mask_head.conv_cls.bias"]
    source["mask_head.conv_cls.weight"] = torch.empty(3, 256, 3, 3, device="meta")
    source["bbox_head.fc.weight"] = torch.empty(1, device="meta")
    source["neck.fpn_convs.0.conv.bias"] = torch.zeros(256, dtype=torch.int32)
    source["bbox_head.solo_kernel.bias"] = source["mask_head.conv_kernel.bias"]

    with pytest.raises(CheckpointError) as failure:
        convert_state_dict(source, network_shapes(VARIANTS[LIGHT]))

    text = str(failure.value)
    assert "bbox_head.fc.weight: not part" in text
    assert "head.category.bias: missing" in text
    assert "mask_head.conv_cls.weight: shape (3, 256, 3, 3), expected (80, 256, 3, 3)" in text
    assert "neck.fpn_convs.0.conv.bias: unexpected type int32" in text
    assert "bbox_head.solo_kernel.bias: stands there twice" in text


def test_backbone_names_are_the_same_on_both_sides() -> None:
    assert rename_key("backbone.layer3.5.bn2.running_var") == "backbone.layer3.5.bn2.running_var"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights(layout: str, tmp_path: Path) -> None:
    arrange, legacy = LAYOUTS[layout]
    state = state_of(LIGHT)  # small whole numbers: exact in half precision

    checkpoint = read_mmdet_checkpoint(write(tmp_path / "a.pth", arrange(state), legacy=legacy))

    assert checkpoint.config == VARIANTS[LIGHT]
    assert len(checkpoint.state_dict) == len(state)
    for key, value in state.items():
        ours = checkpoint.state_dict[rename_key(key)]
        assert ours.dtype == value.dtype
        assert ours.is_contiguous()
        assert torch.equal(ours, value)


@pytest.mark.parametrize("variant", OFFICIAL)
def test_a_variant_is_recognised_by_names_and_shapes(variant: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", published_2x(state_of(variant, classes=7)), legacy=True)

    config = read_mmdet_checkpoint(path).config

    assert config.variant == variant
    assert config == replace(VARIANTS[variant], class_names=config.class_names)


def test_the_two_schedules_of_one_architecture_are_told_apart_by_name_alone(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.pth", state_of("r50_3x"))

    assert read_mmdet_checkpoint(path).config.variant == "r50_3x"
    assert read_mmdet_checkpoint(path, variant="r50_1x").config == VARIANTS["r50_1x"]


def test_a_named_variant_has_to_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", state_of(LIGHT))

    with pytest.raises(CheckpointError, match=r"backbone\.layer1\.2\.conv1\.weight: missing"):
        read_mmdet_checkpoint(path, variant="light_r34_3x")


@pytest.mark.parametrize("name", ["mobile", "r152"])
def test_a_name_that_is_not_mmdetections_is_refused(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", state_of(LIGHT))

    with pytest.raises(CheckpointError, match=f"no variant '{name}'; MMDetection has r50_1x, "):
        read_mmdet_checkpoint(path, variant=name)


def test_the_official_variants_are_mmdetections_nine() -> None:
    assert set(OFFICIAL_VARIANTS) == {*OFFICIAL, "r50_1x"}


def test_a_damaged_state_dict_is_compared_with_the_nearest_variant(tmp_path: Path) -> None:
    state = state_of("light_r34_3x")
    del state["backbone.layer3.5.conv2.weight"]
    state["backbone.fc.bias"] = torch.zeros(1000)

    with pytest.raises(CheckpointError) as failure:
        read_mmdet_checkpoint(write(tmp_path / "a.pth", state))

    assert str(failure.value) == (
        f"{tmp_path}/a.pth: the weights do not fit: backbone.fc.bias: not part of this network; "
        "backbone.layer3.5.conv2.weight: missing"
    )


def test_batch_norm_counters_may_be_missing(tmp_path: Path) -> None:
    state = {k: v for k, v in state_of(LIGHT).items() if "num_batches_tracked" not in k}

    checkpoint = read_mmdet_checkpoint(write(tmp_path / "a.pth", state))

    assert checkpoint.state_dict["backbone.bn1.num_batches_tracked"].item() == 0
    assert checkpoint.state_dict["backbone.bn1.num_batches_tracked"].dtype == torch.int64


def test_old_names_of_deformable_convolutions_are_understood(tmp_path: Path) -> None:
    state = state_of("light_r50_dcn_3x")
    old = {re.sub(r"\.conv2\.conv_offset\.", ".conv2_offset.", k): v for k, v in state.items()}
    assert "backbone.layer2.0.conv2_offset.weight" in old

    checkpoint = read_mmdet_checkpoint(write(tmp_path / "a.pth", old))

    assert checkpoint.config.variant == "light_r50_dcn_3x"
    key = "backbone.layer2.0.conv2.offset.weight"
    assert torch.equal(
        checkpoint.state_dict[key], state["backbone.layer2.0.conv2.conv_offset.weight"]
    )


def test_unmodulated_deformable_convolution_is_refused_by_name(tmp_path: Path) -> None:
    state = {
        as_solo(key): value[:18] if "conv_offset" in key else value
        for key, value in state_of("light_r50_dcn_3x").items()
    }

    with pytest.raises(CheckpointError, match=r"a DCNv1 checkpoint: .*18 channels.*DCNv2 has 27"):
        read_mmdet_checkpoint(write(tmp_path / "a.pth", state))


CLASS_NAMES: dict[str, tuple[int, object, tuple[str, ...]]] = {
    "2.x": (2, {"CLASSES": ("käse", "wurst")}, ("käse", "wurst")),
    "3.x": (2, {"dataset_meta": {"classes": ["a", "b"], "palette": None}}, ("a", "b")),
    "3.x in capitals": (2, {"dataset_meta": {"CLASSES": ("a", "b")}}, ("a", "b")),
    "outer key in capitals": (2, {"DATASET_META": {"Classes": ("a", "b")}}, ("a", "b")),
    "lower case": (2, {"classes": ("a", "b")}, ("a", "b")),
    "one word": (1, {"CLASSES": "person"}, ("person",)),
    "of another dataset": (3, {"CLASSES": COCO_CLASSES}, ("class_0", "class_1", "class_2")),
    "none": (2, {}, ("class_0", "class_1")),
    "nothing": (80, None, COCO_CLASSES),
    "eighty others": (80, {"CLASSES": [*"x" * 80]}, tuple("x" * 80)),
}


@pytest.mark.parametrize("case", CLASS_NAMES)
def test_class_names_come_from_the_file_where_they_fit(case: str, tmp_path: Path) -> None:
    count, meta, expected = CLASS_NAMES[case]
    content = {"state_dict": state_of(LIGHT, classes=count), "meta": meta}

    config = read_mmdet_checkpoint(write(tmp_path / "a.pth", content)).config

    assert config.class_names == expected


def test_an_absurd_number_of_classes_is_no_reason_to_fill_the_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", state_of(LIGHT, classes=2**40))

    with pytest.raises(CheckpointError, match=r"conv_cls\.bias: shape \(1099511627776,\)"):
        read_mmdet_checkpoint(path)


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


class HistoryBuffer:
    """Like what a training checkpoint of MMDetection 3.x carries beside its weights."""


@pytest.mark.parametrize("legacy", [True, False])
def test_nothing_in_a_file_is_run(legacy: bool, tmp_path: Path) -> None:
    target = tmp_path / "proof"
    content = {"state_dict": state_of(LIGHT), "meta": Payload(target)}
    path = write(tmp_path / "a.pth", content, legacy=legacy)

    with pytest.raises(CheckpointError, match=r"holds an object \(posix\.mkdir\) .*running code"):
        Predictor.load(path)

    assert not target.exists()
    torch.load(path, weights_only=False)  # the file is a working attack
    assert target.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_not_run_either(protocol: int, tmp_path: Path) -> None:
    target = tmp_path / "proof"
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"state_dict": Payload(target)}, protocol))

    with pytest.raises(CheckpointError):
        read_mmdet_checkpoint(path)

    assert not target.exists()


def test_a_training_checkpoint_is_to_be_published_first(tmp_path: Path) -> None:
    content = {**published_3x(state_of(LIGHT)), "message_hub": {"loss": HistoryBuffer()}}
    path = write(tmp_path / "epoch_36.pth", content)

    with pytest.raises(CheckpointError) as failure:
        read_mmdet_checkpoint(path)

    text = str(failure.value)
    assert text.startswith(f"{path}: holds an object (")
    assert "HistoryBuffer" in text
    assert "publish the checkpoint first with MMDetection's tools/model_converters/" in text
    assert "\n" not in text


FOREIGN: dict[str, tuple[object, str]] = {
    "tensor": (torch.zeros(3), "holds a Tensor, not a state_dict"),
    "list": ([1, 2], "holds a list, not a state_dict"),
    "ImageNet": ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "no SOLOv2 checkpoint"),
    "empty": ({"state_dict": {}}, "no SOLOv2 checkpoint"),
    "training state": ({"state_dict": 7, "epoch": 1}, "its state_dict is a int"),
    "numbers": ({"mask_head.conv_cls.bias": 1, 3: 4}, "conv_cls.bias: not a tensor; 3: not a"),
    "sparse": (
        {"mask_head.conv_cls.bias": torch.zeros(80).to_sparse()},
        "mask_head.conv_cls.bias: not a tensor",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_another_networks_file_is_named_with_the_reason(case: str, tmp_path: Path) -> None:
    content, reason = FOREIGN[case]
    path = write(tmp_path / "a.pth", content)

    with pytest.raises(CheckpointError, match=f"^{re.escape(f'{path}: ')}.*{reason}") as failure:
        read_mmdet_checkpoint(path)

    assert "\n" not in str(failure.value)


BROKEN: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "text": lambda data: b"<html>404 not found</html>",
    "noise": lambda data: bytes(range(256)) * 9,
    "half": lambda data: data[: len(data) // 2],
    "last byte lost": lambda data: data[:-1],
}


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_file_is_named_in_one_line(case: str, legacy: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", published_2x(state_of(LIGHT)), legacy=legacy)
    path.write_bytes(BROKEN[case](path.read_bytes()))

    with pytest.raises(CheckpointError) as failure:
        read_mmdet_checkpoint(path)

    assert str(failure.value) == f"{path}: not a PyTorch file, or a damaged one"


def test_a_zip_that_was_compressed_again_gives_the_same_weights(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.pth", published_2x(state_of(LIGHT)), legacy=False)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))

    expected, found = (read_mmdet_checkpoint(path).state_dict for path in (plain, packed))

    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_a_weights_file_of_ours_is_not_converted(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"")

    with pytest.raises(CheckpointError, match="not a published"):
        convert_file(path, path)


def test_names_that_are_no_text_are_not_taken_for_classes(tmp_path: Path) -> None:
    file = {"state_dict": state_of(LIGHT, classes=2), "meta": {"CLASSES": (["a"], "\ud800")}}

    checkpoint = read_mmdet_checkpoint(write(tmp_path / "a.pth", file))

    assert checkpoint.config.class_names == ("class_0", "class_1")


def test_a_tensor_without_numbers_is_refused(tmp_path: Path) -> None:
    state = state_of(LIGHT)
    state["backbone.conv1.weight"] = torch.empty(64, 3, 7, 7, device="meta")

    with pytest.raises(CheckpointError, match=r"backbone\.conv1\.weight: not a tensor"):
        read_mmdet_checkpoint(write(tmp_path / "a.pth", {"state_dict": state}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pth: no such weights file"):
        read_mmdet_checkpoint(tmp_path / "none.pth")


@pytest.fixture(scope="module")
def official_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published file with the weights of the micro golden."""
    golden = load(GOLDEN / f"micro_{LIGHT}.npz")
    state = seeded_state_dict(official_keys(LIGHT), golden.meta["seed"], golden.meta["profile"])
    path = tmp_path_factory.mktemp("published") / "solov2_light_r18.pth"
    return write(path, published_2x(state), legacy=True)


def test_a_converted_file_finds_what_the_original_finds(
    official_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "converted.safetensors"

    report = convert_file(official_file, out)

    assert (report.variant, report.class_names, report.entries) == (LIGHT, COCO_CLASSES, 176)
    converted = load_checkpoint(out)
    direct = read_mmdet_checkpoint(official_file)
    assert converted.config == direct.config
    assert all(torch.equal(v, direct.state_dict[k]) for k, v in converted.state_dict.items())

    golden = load(GOLDEN / f"micro_{LIGHT}.npz")  # its picture was scored at another size
    small = PreprocessConfig(long_side=128, short_side=96)
    config = replace(converted.config, preprocess=small)
    save_checkpoint(out, replace(converted, config=config), dtype=torch.float32)
    result = Predictor.load(out, device="cpu").predict([picture()])[0]
    assert result.labels.tolist() == golden["labels"].tolist()
    np.testing.assert_allclose(result.scores, golden["scores"], rtol=0, atol=2e-4)
    assert (result.full_masks() != final_masks(golden)).mean() <= 1e-5


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_published_file_is_loaded_as_it_is(
    suffix: str, official_file: Path, tmp_path: Path
) -> None:
    published = tmp_path / f"renamed{suffix}"
    published.hardlink_to(official_file)
    converted = tmp_path / "converted.safetensors"
    convert_file(published, converted)
    strip = picture(40, 800)  # a small canvas at the official size

    direct, indirect = (
        Predictor.load(path, device="cpu").predict([strip])[0] for path in (published, converted)
    )

    assert len(direct) > 0
    assert np.array_equal(direct.scores, indirect.scores)
    assert np.array_equal(direct.full_masks(), indirect.full_masks())


def test_half_precision_halves_the_converted_file(official_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.safetensors"

    convert_file(official_file, out, half=True)

    assert out.stat().st_size < 0.51 * official_file.stat().st_size


def test_the_result_has_to_be_named_as_what_it_is(official_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has to end in \.safetensors"):
        convert_file(official_file, tmp_path / "converted.pth")
