from pathlib import Path

import cv2
import pytest
import torch
from goldens import picture
from tiny import save_tiny

from model.benchmark import Benchmark, network_flops, peak_flops, random_checkpoint
from model.config import VARIANTS
from model.predictor import Predictor

STAGES_BEFORE = ["decode", "resize", "normalise", "to device"]
NETWORK = ["backbone", "fpn", "mask feature", "head"]


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    weights = save_tiny(tmp_path / "tiny.safetensors")
    fast, plain = (Predictor.load(weights, "cpu", exact=exact) for exact in (False, True))
    _, photo = cv2.imencode(".png", picture())
    return Benchmark(fast, plain, photo.tobytes(), batch_size=2)


def test_every_stage_of_both_ways_is_timed(benchmark: Benchmark) -> None:
    report = benchmark.measure(3)

    assert list(report.fast.stages) == [
        *STAGES_BEFORE,
        *NETWORK,
        *("candidates", "matrix nms", "crops", "polygons"),
    ]
    assert list(report.plain.stages) == [
        *STAGES_BEFORE,
        *NETWORK,
        *("plain postprocess", "polygons"),
    ]
    for times in (report.fast, report.plain):
        assert all(time > 0 for time in times.stages.values())
        assert sum(times.stages.values()) == pytest.approx(times.parts["total"], rel=0.5)
    assert report.size == picture().shape[:2]
    assert 0 < report.instances <= report.candidates


def test_ratios_say_how_much_longer_the_plain_way_takes(benchmark: Benchmark) -> None:
    report = benchmark.measure(1)

    fast, plain = report.fast.parts["network"], report.plain.parts["network"]
    assert report.ratios()["network"] == plain / fast


def test_a_trace_holds_the_stages(benchmark: Benchmark, tmp_path: Path) -> None:
    benchmark.trace(tmp_path / "trace.json")

    text = (tmp_path / "trace.json").read_text()
    assert all(f'"{stage}"' in text for stage in (*NETWORK, "matrix nms", "crops"))


def test_random_weights_are_the_same_for_the_same_seed() -> None:
    one, other = (random_checkpoint(VARIANTS["light_r18_3x"], seed=3) for _ in range(2))

    for name, tensor in one.state_dict.items():
        assert torch.equal(tensor, other.state_dict[name])


def test_operations_grow_with_batch_and_canvas() -> None:
    config = VARIANTS["light_r18_3x"]
    one = network_flops(config, 1, (128, 128))

    assert network_flops(config, 2, (128, 128)) == 2 * one
    assert one > 2 * 10**9  # the head alone: 3872 cells, two towers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_peak_of_this_processor_is_measured_however_slow_it_is(dtype: torch.dtype) -> None:
    assert peak_flops(torch.device("cpu"), dtype) > 1e7
