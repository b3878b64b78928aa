import json
from pathlib import Path

import numpy as np
import pytest
from pictures import astronaut

from model.checkpoint import file_sha256
from model.predictor import Predictor

WEIGHTS = Path(__file__).parents[1] / "weights"
DEFAULT = WEIGHTS / "default.safetensors"
MANIFEST = json.loads((WEIGHTS / "manifest.json").read_text())


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load(DEFAULT, device="cpu")


def test_the_shipped_file_is_small_and_the_one_its_manifest_and_card_describe() -> None:
    assert DEFAULT.stat().st_size <= 16 * 1024**2
    assert MANIFEST["sha256"] == file_sha256(DEFAULT)
    assert MANIFEST["sha256"] in (WEIGHTS / "README.md").read_text()


def test_it_names_people_and_cats(predictor: Predictor) -> None:
    assert predictor.class_names == ("person", "cat")


def test_it_finds_the_astronaut_and_her_outline(predictor: Predictor) -> None:
    best = predictor.predict([astronaut()])[0]

    mask = best.full_masks()[0]
    assert predictor.class_names[best.labels[0]] == "person"
    assert best.scores[0] > 0.4
    assert mask[60:160, 180:270].mean() > 0.9  # face
    assert mask[300:400, 100:250].mean() > 0.9  # suit
    assert mask[:300, 400:].mean() < 0.1  # the shuttle behind her


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 40, 40)])
def test_a_plain_picture_holds_nothing(predictor: Predictor, colour: tuple[int, int, int]) -> None:
    plain = np.full((480, 640, 3), colour, dtype=np.uint8)

    assert len(predictor.predict([plain])[0]) == 0
