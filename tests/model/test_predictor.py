from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import picture
from tiny import TINY, save_tiny

from model.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from model.predictor import Predictor
from model.structures import Instances


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.load(
        save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors"), device="cpu"
    )


def assert_same(one: Instances, other: Instances) -> None:
    assert np.array_equal(one.scores, other.scores)
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.full_masks(), other.full_masks())


def test_a_result_does_not_depend_on_its_company(predictor: Predictor) -> None:
    images = [picture(), picture(90, 200), picture()[:, ::-1].copy(), picture(300, 400)]

    together = predictor.predict(images)

    assert sum(map(len, together)) > 0
    for image, result in zip(images, together, strict=True):
        assert (result.height, result.width) == image.shape[:2]
        assert_same(result, predictor.predict([image])[0])


def test_results_come_in_the_order_of_the_pictures(predictor: Predictor) -> None:
    sizes = [(150, 200), (200, 150), (150, 201), (200, 151)]

    results = predictor.predict([picture(*size) for size in sizes])

    assert [(r.height, r.width) for r in results] == sizes


def test_no_pictures_give_no_results(predictor: Predictor) -> None:
    assert predictor.predict([]) == []


def test_half_precision_finds_nearly_the_same(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "tiny.safetensors")

    full, half = (
        Predictor.load(path, device="cpu", precision=p).predict([picture()])[0]
        for p in ("fp32", "bf16")
    )

    assert abs(len(full) - len(half)) <= max(2, len(full) // 5)
    assert half.scores[0] == pytest.approx(full.scores[0], abs=0.05)


def test_automatic_precision_on_a_cpu_is_fp32(predictor: Predictor) -> None:
    assert predictor.dtype == torch.float32


def test_a_picture_that_cannot_be_resized_is_refused(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="too long and thin"):
        predictor.predict([np.zeros((10, 40000, 3), np.uint8)])


def test_what_is_no_picture_is_refused(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="expected"):
        predictor.predict([np.zeros((5,), np.uint8)])


def test_warming_up_accepts_the_sizes_of_pictures(predictor: Predictor) -> None:
    predictor.warm_up([(48, 64), (64, 48)])


def test_weights_that_do_not_fit_their_config_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_checkpoint(path, Checkpoint(TINY, {"backbone.features.0.0.weight": torch.zeros(1)}))

    with pytest.raises(CheckpointError, match="do not fit their config") as failure:
        Predictor.load(path)

    assert str(failure.value).startswith(str(path))
    assert "\n" not in str(failure.value)


def test_a_folder_with_one_weights_file_is_enough(tmp_path: Path) -> None:
    save_tiny(tmp_path / "deep.safetensors")

    assert Predictor.load(tmp_path).class_names == ("person", "cat")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no device cuda:0"):
        Predictor.load(save_tiny(tmp_path / "tiny.safetensors"), device="cuda:0")
