"""Where the time of one picture goes."""

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from model.polygons import mask_to_rings
from model.postprocess import postprocess
from model.predictor import Predictor
from model.preprocess import preprocess
from model.structures import RGBImage

_WARM_UP_RUNS = 2


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Medians over the repeats, in milliseconds."""

    stages: dict[str, float]  # preprocess, network, postprocess, polygons: in this order
    total: float
    instances: int


def benchmark_picture(
    predictor: Predictor, image: RGBImage, *, repeats: int = 20, tolerance_px: float = 0.75
) -> StageTimes:
    """Take one picture from pixels to polygons again and again.

    Args:
        predictor: The model, on its device.
        image: (H, W, 3) uint8 RGB.
        repeats: Runs that count; two more come first, to warm up.
        tolerance_px: Of the polygons.
    """
    watch = _Stopwatch(predictor.device)
    for _ in range(_WARM_UP_RUNS + repeats):
        instances = _run(predictor, image, tolerance_px, watch)
    runs = {name: times[_WARM_UP_RUNS:] for name, times in watch.times.items()}
    return StageTimes(
        stages={name: statistics.median(times) for name, times in runs.items()},
        total=statistics.median(map(sum, zip(*runs.values(), strict=True))),
        instances=instances,
    )


def _run(predictor: Predictor, image: RGBImage, tolerance_px: float, watch: "_Stopwatch") -> int:
    """One picture through all stages; how many instances it has."""
    with watch.stage("preprocess"):
        batch = preprocess([image], predictor.config.preprocess)
    with watch.stage("network"):
        output = predictor.forward(batch)
    with watch.stage("postprocess"), torch.inference_mode():
        [instances] = postprocess(output, batch.geometries, predictor.inference)
    with watch.stage("polygons"):
        for mask in instances.masks:
            mask_to_rings(mask, tolerance_px=tolerance_px)
    return len(instances)


class _Stopwatch:
    """Milliseconds of each stage, run after run; waits for the device where it has to."""

    def __init__(self, device: torch.device) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)
        self._device = device

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.times[name].append((time.perf_counter() - started) * 1000)
