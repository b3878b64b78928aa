from pathlib import Path

import pytest
from goldens import picture
from tiny import save_tiny

from model.benchmark import benchmark_picture
from model.predictor import Predictor


def test_every_stage_is_timed_and_the_total_is_about_their_sum(tmp_path: Path) -> None:
    predictor = Predictor.load(save_tiny(tmp_path / "tiny.safetensors"), device="cpu")

    times = benchmark_picture(predictor, picture(), repeats=5)

    assert list(times.stages) == ["preprocess", "network", "postprocess", "polygons"]
    assert all(time > 0 for time in times.stages.values())
    assert times.total == pytest.approx(sum(times.stages.values()), rel=0.5)
    assert times.instances == len(predictor.predict([picture()])[0])
