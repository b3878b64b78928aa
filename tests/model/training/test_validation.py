import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.evaluate import CocoReport, evaluate_coco
from model.predictor import Predictor
from model.structures import Instances, RGBImage
from model.training.config import TrainConfig
from model.training.data import load_data
from model.training.validation import Validation, validation_line


class SeesSquares:
    """Finds the squares of the test pictures by their colour, the blue ones only if asked to."""

    def __init__(self, *, blue: bool) -> None:
        self._colours = [(255, 0, 0), (0, 0, 255)][: 1 + blue]

    def predict(self, images: Sequence[RGBImage]) -> list[Instances]:
        return [self._find(image) for image in images]

    def _find(self, image: RGBImage) -> Instances:
        masks = [(image == colour).all(-1) for colour in self._colours]
        found = [n for n, mask in enumerate(masks) if mask.any()]
        scores = np.ones(len(found), dtype=np.float32)
        frames = np.array([masks[n] for n in found]).reshape(-1, *image.shape[:2])
        return Instances.from_full_masks(scores, np.array(found, dtype=np.int64), frames)


@pytest.fixture
def validation(config: TrainConfig) -> Validation:
    return make(config)


def make(config: TrainConfig) -> Validation:
    config.output.mkdir()
    data = load_data(config, check=False)
    assert data.validation is not None
    return Validation(data.validation, data.class_names, config, "cpu")


def measure(
    validation: Validation, weights: Path, monkeypatch: pytest.MonkeyPatch, *blue: bool
) -> list[CocoReport]:
    """One measurement for each, the weights being labelled by their turn."""
    reports = []
    for turn, sees_blue in enumerate(blue):
        weights.write_text(str(turn))
        seer = SeesSquares(blue=sees_blue)
        monkeypatch.setattr(Predictor, "load", lambda *_, seer=seer: seer)
        reports.append(validation.measure(weights))
    return reports


def test_the_best_weights_are_kept(
    validation: Validation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = measure(validation, tmp_path / "w", monkeypatch, False, True, True, False)

    assert reports[1].mask_ap > reports[0].mask_ap + 0.3
    assert validation.best_mask_ap == reports[1].mask_ap
    assert validation.best.read_text() == "1"
    assert validation.since_best == 2


def test_it_gives_up_after_as_many_measurements_as_asked_for(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = make(replace(config, early_stopping=2))

    measure(validation, tmp_path / "w", monkeypatch, False, True, False)
    assert not validation.gives_up
    measure(validation, tmp_path / "w", monkeypatch, True)
    assert validation.gives_up


def test_without_early_stopping_it_never_gives_up(
    validation: Validation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(validation, tmp_path / "w", monkeypatch, True, True, True)

    assert not validation.gives_up


def test_its_state_goes_on_counting(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = make(config)
    measure(validation, tmp_path / "w", monkeypatch, True, False)

    state: dict[str, Any] = json.loads(json.dumps(validation.state_dict()))
    again = make(replace(config, output=tmp_path / "again"))
    again.load_state_dict(state)

    assert (again.best_mask_ap, again.since_best) == (validation.best_mask_ap, 1)


def test_the_pictures_it_measures_on_are_listed_for_others(
    validation: Validation, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [report] = measure(validation, tmp_path / "w", monkeypatch, False)

    again = evaluate_coco(
        SeesSquares(blue=False).predict,
        ("red", "blue"),
        config.output,
        config.output / "val.json",
    )

    assert again.mask == report.mask
    assert again.box == report.box


def test_a_line_of_the_log_has_every_class(
    validation: Validation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [report] = measure(validation, tmp_path / "w", monkeypatch, False)

    line = validation_line(report)

    assert line["per_class"]["red"]["mask_ap50"] == 1
    assert line["per_class"]["blue"]["mask_ap50"] == 0
    assert line["mask_ap50"] == pytest.approx(0.5)
