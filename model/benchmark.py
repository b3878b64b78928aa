"""Where the time of a batch of pictures goes, and what the plain way to the same results takes."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from model.checkpoint import Checkpoint
from model.config import SOLOv2Config
from model.decode import decode_image
from model.deformable import DeformableConv
from model.memory import freed_memory_handed_back
from model.polygons import mask_to_rings
from model.postprocess import crop, find_candidates, suppress
from model.predictor import Predictor
from model.preprocess import normalise, place, resize
from model.reference import reference_postprocess
from model.solov2 import build_solov2
from model.structures import ImageBatch, Instances, SOLOv2Output

_WARM_UP_RUNS = 2
_NETWORK = ("to device", "backbone", "fpn", "mask feature", "head")
_POSTPROCESS = ("candidates", "matrix nms", "crops", "plain postprocess")
_LONG_RUN_S = 0.05

_Sized = tuple[int, Callable[[], object]]  # how many operations, and what does them


@dataclass(frozen=True, slots=True)
class Times:
    """Medians over the repeats, in milliseconds for the whole batch."""

    stages: dict[str, float]  # in the order of computation
    parts: dict[str, float]  # network, postprocess, total


@dataclass(frozen=True, slots=True)
class BatchReport:
    """The two ways over one batch of equal pictures."""

    size: tuple[int, int]  # (height, width) of the picture
    canvas: tuple[int, int]
    candidates: int  # of one picture, after the limit on how many go into Matrix NMS
    instances: int  # of them, after it
    fast: Times
    plain: Times

    def ratios(self) -> dict[str, float]:
        """How many times as long the plain way takes, for each part."""
        return {part: self.plain.parts[part] / time for part, time in self.fast.parts.items()}


class Benchmark:
    """Takes a batch from bytes to polygons in the service's way and in the plain way.

    The plain way is MMDetection's: the exact network, then one dynamic convolution per candidate
    and whole frames, in memory that the system clears each time. Both ways take turns, so that a
    machine's moods meet both alike. Each stage waits for the device, so the stages of a GPU add up
    to a little more than an undisturbed run.

    Args:
        fast: The model as it is served.
        plain: The same model, exact, on the same device and in the same precision.
        photo: An encoded picture.
        batch_size: How many of it make a batch.
        tolerance_px: Of the polygons.
    """

    def __init__(
        self,
        fast: Predictor,
        plain: Predictor,
        photo: bytes,
        *,
        batch_size: int = 1,
        tolerance_px: float = 0.75,
    ) -> None:
        self._fast = fast
        self._plain = plain
        self._photo = photo
        self._batch_size = batch_size
        self._tolerance_px = tolerance_px

    def measure(self, repeats: int) -> BatchReport:
        """Medians of so many runs each; two runs come first, to warm up."""
        fast, plain = _Stopwatch(self._fast.device), _Stopwatch(self._plain.device)
        with fast.watching(self._fast.network), plain.watching(self._plain.network):
            for _ in range(_WARM_UP_RUNS + repeats):
                self._run_plain(plain)
                self._run_fast(fast)  # takes memory that the plain way handed back: left out
                candidates, instances = self._run_fast(fast)
        geometry = place(decode_image(self._photo), self._fast.config.preprocess)
        return BatchReport(
            size=geometry.original,
            canvas=geometry.canvas,
            candidates=candidates,
            instances=instances,
            fast=_summarise(fast.runs[1::2][_WARM_UP_RUNS:]),
            plain=_summarise(plain.runs[_WARM_UP_RUNS:]),
        )

    def trace(self, path: Path) -> None:
        """Write one run of the service's way as a Chrome trace, a range for each stage.

        Raises:
            OSError: The file cannot be written.
        """
        path.touch()  # the profiler would only log that it cannot
        watch = _Stopwatch(self._fast.device)
        activities = [ProfilerActivity.CPU]
        if self._fast.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with watch.watching(self._fast.network):
            self._run_fast(watch)
            with profile(activities=activities) as profiler:
                self._run_fast(watch)
        profiler.export_chrome_trace(str(path))

    @torch.inference_mode()
    def _run_fast(self, watch: "_Stopwatch") -> tuple[int, int]:
        """Candidates and instances of one picture."""
        with watch.run():
            batch = self._prepare(self._fast, watch)
            output = self._fast.forward(batch)
            watch.start("candidates")
            candidates = list(find_candidates(output, self._fast.inference))
            watch.start("matrix nms")
            kept = [suppress(image, self._fast.inference) for image in candidates]
            watch.start("crops")
            images = zip(kept, output.mask_feature, batch.geometries, strict=True)
            found = [crop(*image, self._fast.inference) for image in images]
            self._outline(found, watch)
        return len(candidates[0]), len(found[0])

    @torch.inference_mode()
    def _run_plain(self, watch: "_Stopwatch") -> None:
        with freed_memory_handed_back(), watch.run():
            batch = self._prepare(self._plain, watch)
            output = self._plain.forward(batch)
            watch.start("plain postprocess")
            found = reference_postprocess(_float32(output), batch.geometries, self._plain.inference)
            self._outline(found, watch)

    def _prepare(self, predictor: Predictor, watch: "_Stopwatch") -> ImageBatch:
        watch.start("decode")
        images = [decode_image(self._photo) for _ in range(self._batch_size)]
        watch.start("resize")
        config = predictor.config.preprocess
        geometries = tuple(place(image, config) for image in images)
        resized = resize(images, geometries)
        watch.start("normalise")
        batch = normalise(resized, geometries, config)
        watch.start("to device")
        return batch

    def _outline(self, found: Sequence[Instances], watch: "_Stopwatch") -> None:
        watch.start("polygons")
        for instances in found:
            for mask in instances.masks:
                mask_to_rings(mask, tolerance_px=self._tolerance_px)


class _Stopwatch:
    """Milliseconds of each stage, run after run; a stage lasts until the next one starts."""

    def __init__(self, device: torch.device) -> None:
        self.runs: list[dict[str, float]] = []
        self._device = device
        self._started = 0.0
        self._range: record_function | None = None

    @contextmanager
    def run(self) -> Iterator[None]:
        self.runs.append({})
        yield
        self._stop()

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Start a stage whenever one of the network's four parts does."""
        parts = {name: network.get_submodule(name.replace(" ", "_")) for name in _NETWORK[1:]}
        with ExitStack() as hooks:
            for name, part in parts.items():
                hook = part.register_forward_pre_hook(self._hook(name))
                hooks.callback(hook.remove)
            yield

    def start(self, stage: str) -> None:
        self._stop()
        self._range = record_function(stage)
        self._range.__enter__()  # type: ignore[no-untyped-call]
        self._stage, self._started = stage, time.perf_counter()

    def _hook(self, stage: str) -> Callable[[nn.Module, Any], None]:
        return lambda *_: self.start(stage)

    def _stop(self) -> None:
        if self._range is None:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.runs[-1][self._stage] = (time.perf_counter() - self._started) * 1000
        self._range.__exit__(None, None, None)
        self._range = None


def _summarise(runs: Sequence[Mapping[str, float]]) -> Times:
    def part(names: Sequence[str]) -> float:
        return statistics.median(sum(run.get(name, 0.0) for name in names) for run in runs)

    return Times(
        stages={stage: part([stage]) for stage in runs[0]},
        parts={
            "network": part(_NETWORK),
            "postprocess": part(_POSTPROCESS),
            "total": part(list(runs[0])),
        },
    )


def _float32(output: SOLOv2Output) -> SOLOv2Output:
    return SOLOv2Output(
        tuple(level.float() for level in output.categories),
        tuple(level.float() for level in output.kernels),
        output.mask_feature.float(),
    )


def random_checkpoint(config: SOLOv2Config, seed: int = 0) -> Checkpoint:
    """Weights by chance, the same for the same seed.

    They take published ones' time through the network. Those of the official networks find a
    dozen to hundreds of candidates in a photo.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = build_solov2(config)
        for module in network.modules():
            if isinstance(module, DeformableConv):  # else every sample hits a pixel's centre
                nn.init.normal_(module.offset.get_parameter("bias"), std=0.6)
        category = network.head.category
        fan_in = category.weight[0].numel()
        # Behind group norm and ReLU the mean square is 1/2, so the logits vary by about 0.7. With 1
        # there would be thousands of candidates.
        nn.init.normal_(category.weight, std=fan_in**-0.5)
        _settle_batch_norms(network)
    return Checkpoint(config, network.state_dict())


def _settle_batch_norms(network: nn.Module) -> None:
    """Statistics of noise for the batch norms, else a hundred layers overflow float16."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches, of which there is one
    network(torch.randn(1, 3, 128, 128))


def network_flops(config: SOLOv2Config, batch_size: int, canvas: tuple[int, int]) -> int:
    """Floating-point operations of the plain network: two for each multiplication and addition.

    Convolutions and matrix products alone, as is usual, however they are computed.
    """
    with torch.device("meta"):
        network = build_solov2(config).eval()
        pixels = torch.empty(batch_size, 3, *canvas)
    formulas = {torch.ops.torchvision.deform_conv2d: _deform_conv_flops}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter, torch.no_grad():
        network(pixels)
    return counter.get_total_flops()


def _deform_conv_flops(
    _x: torch.Size, weight: torch.Size, *_: object, out_shape: torch.Size, **__: object
) -> int:
    return 2 * out_shape.numel() * weight[1:].numel()


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The most operations per second of matrix products and convolutions here and now."""

    def product(side: int) -> _Sized:
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        return 2 * side**3, lambda: left @ right

    def convolution(side: int, layout: torch.memory_format) -> _Sized:
        x = torch.randn(1, 256, side, side, device=device, dtype=dtype)
        kernel = torch.randn(256, 256, 3, 3, device=device, dtype=dtype)
        x, kernel = x.to(memory_format=layout), kernel.to(memory_format=layout)
        return 2 * side**2 * kernel.numel(), lambda: F.conv2d(x, kernel, padding=1)

    layouts = (torch.contiguous_format, torch.channels_last)
    with torch.inference_mode():
        return max(
            _peak(product, 256, device),
            *(_peak(partial(convolution, layout=layout), 16, device) for layout in layouts),
        )


def _peak(operation: Callable[[int], _Sized], side: int, device: torch.device) -> float:
    """Operations per second, the side being doubled five times or until a run is long.

    A processor without bfloat16 would take minutes over what another does in a blink.
    """
    rate = 0.0
    for doublings in range(6):
        flops, compute = operation(side << doublings)
        seconds = _best_seconds(compute, device)
        rate = max(rate, flops / seconds)
        if seconds > _LONG_RUN_S:
            break
    return rate


def _best_seconds(compute: Callable[[], object], device: torch.device) -> float:
    watch = _Stopwatch(device)
    for _ in range(4):
        with watch.run():
            watch.start("compute")
            compute()
    return min(run["compute"] for run in watch.runs) / 1000
