import json
import re
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from model.training.config import TrainConfig
from model.training.data import load_data
from model.training.report import write_report
from model.training.train import TrainResult

LOG: list[dict[str, Any]] = [
    {"iteration": 1, "loss_mask": 2.0, "loss_category": 1.0, "learning_rate": 0.1},
    {"iteration": 2, "loss_mask": 1.0, "loss_category": 0.5, "learning_rate": 0.0},
]
MEASURED = {
    "iteration": 2,
    "mask_ap": 0.25,
    "mask_ap50": 0.5,
    "mask_ap75": 0.125,
    "box_ap": 0.2,
    "per_class": {
        "<red>": {"mask_ap": 0.5, "mask_ap50": 1.0, "mask_ap75": 0.25, "box_ap": 0.4},
        "blue": {"mask_ap": -1.0, "mask_ap50": -1.0, "mask_ap75": -1.0, "box_ap": -1.0},
    },
}


def page(config: TrainConfig, weights: Path, *lines: dict[str, Any]) -> str:
    config.output.mkdir(exist_ok=True)
    text = "\n".join(json.dumps(line) for line in (*LOG, *lines))
    (config.output / "log.jsonl").write_text(text)
    measured = bool(lines)
    result = TrainResult(
        iterations=2,
        last=weights,
        best=weights if measured else None,
        best_mask_ap=0.25 if measured else None,
        report=config.output / "report.html",
    )
    return write_report(config, load_data(config, check=False), result, "cpu").read_text()


def test_it_shows_figures_curves_and_settings(config: TrainConfig, tiny_weights: Path) -> None:
    text = page(config, tiny_weights, MEASURED | {"iteration": 1, "mask_ap": 0.2}, MEASURED)

    assert "0.250, the best, after 2 iterations" in text
    assert "<td>&lt;red&gt;</td><td>0.500</td><td>1.000</td><td>0.250</td><td>0.400</td>" in text
    assert "<td>blue</td><td>-</td>" in text
    assert 'points="180.0,0.0 360.0,100.0"' in text  # the mask loss, from 2 to 1
    assert '<circle cx="360.0" cy="100.0"' in text  # a curve of one point shows too
    assert "<dt>batch_size</dt><dd>2</dd>" in text


def test_it_needs_nothing_beside_it(config: TrainConfig, tiny_weights: Path) -> None:
    text = page(config, tiny_weights, MEASURED)

    assert "http" not in text
    sources = re.findall(r'src="([^"]{0,30})', text)
    assert len(sources) == 12
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_its_examples_are_the_pictures_as_annotated(
    config: TrainConfig, tiny_weights: Path
) -> None:
    text = page(config, tiny_weights, MEASURED)

    first = re.search(r'src="data:image/jpeg;base64,([^"]+)" alt="1.png as annotated"', text)
    assert first is not None
    drawn = cv2.imdecode(np.frombuffer(b64decode(first[1]), np.uint8), cv2.IMREAD_COLOR)
    plain = cv2.imread(str(config.train_data.parent / "1.png"))
    assert drawn.shape == plain.shape
    assert np.abs(drawn.astype(int) - plain).mean() > 2


@pytest.mark.parametrize("fraction", [0, 0.5])
def test_a_run_that_was_not_measured_has_curves_and_examples(
    config: TrainConfig, tiny_weights: Path, fraction: float
) -> None:
    text = page(replace(config, val_data=None, val_fraction=fraction), tiny_weights)

    assert "mask AP" not in text
    assert text.count("<svg") == 2
    assert text.count("<figure>") == (3 if fraction else 6)
