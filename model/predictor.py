"""List of pictures -> list of instances, on one device."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch

from model.checkpoint import Checkpoint, CheckpointError, find_weights, load_checkpoint
from model.config import InferenceConfig, SOLOv2Config
from model.convert_mmdet import read_mmdet_checkpoint
from model.fold import fold_batch_norms
from model.memory import keep_freed_memory
from model.postprocess import postprocess
from model.preprocess import place, preprocess
from model.solov2 import SOLOv2, build_solov2
from model.structures import ImageBatch, Instances, RGBImage, SOLOv2Output
from model.winograd import use_winograd

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

#: Pictures through the network at once. On a CPU it is one: a batch would cost as much as its parts
#: and round differently, while one by one a picture's result is the same in any company.
_BATCH_SIZE = {"cuda": 8}


class Predictor:
    """A loaded network with everything needed to score pictures."""

    def __init__(
        self,
        model: SOLOv2,
        config: SOLOv2Config,
        *,
        inference: InferenceConfig,
        device: torch.device,
        dtype: torch.dtype,
        exact: bool = False,
    ) -> None:
        self.config = config
        self.inference = inference
        self.device = device
        self.dtype = dtype
        self._layout = _memory_format(config.backbone, device, exact=exact)
        if device.type == "cpu":
            keep_freed_memory()
        self.network = model.to(device).eval()
        if not exact:
            fold_batch_norms(self.network)
            if device.type == "cpu" and dtype == torch.float32:
                use_winograd(self.network)
        self.network.to(memory_format=self._layout)

    @classmethod
    def load(
        cls,
        path: Path | str,
        device: str = "auto",
        precision: Precision = "auto",
        *,
        inference: InferenceConfig | None = None,
        exact: bool = False,
    ) -> Self:
        """Load a weights file, or the one weights file inside a folder.

        Args:
            path: A ``.safetensors`` file of ours, a ``.pth`` or ``.pt`` that MMDetection
                published, or a folder that holds one.
            device: ``cpu``, ``cuda``, ``cuda:1`` ...; ``auto`` takes CUDA where there is one.
            precision: Of the network; ``auto`` is fp32 on a CPU and bf16 on CUDA.
            inference: Thresholds; MMDetection's unless given.
            exact: Compute step by step as MMDetection does, for comparisons with it. Otherwise
                convolutions take other ways to the same sums, which round differently.

        Raises:
            CheckpointError: The file is missing, damaged or does not fit its own architecture.
            ValueError: This machine has no such device.
        """
        file = find_weights(Path(path))
        published = file.suffix in (".pth", ".pt")
        checkpoint = read_mmdet_checkpoint(file) if published else load_checkpoint(file)
        try:
            return cls.from_checkpoint(
                checkpoint, device, precision, inference=inference, exact=exact
            )
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from error

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        device: str = "auto",
        precision: Precision = "auto",
        *,
        inference: InferenceConfig | None = None,
        exact: bool = False,
    ) -> Self:
        """As ``load``, with weights in memory, which stay as they are."""
        chosen = torch.device(_auto_device() if device == "auto" else device)
        if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"there is no device {chosen} on this machine")
        if precision == "auto":
            precision = "bf16" if chosen.type == "cuda" else "fp32"
        return cls(
            _assemble(checkpoint),
            checkpoint.config,
            inference=inference or InferenceConfig(),
            device=chosen,
            dtype=_DTYPES[precision],
            exact=exact,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.config.class_names

    @property
    def max_batch_size(self) -> int:
        """Pictures that go through the network at once, at most."""
        return _BATCH_SIZE.get(self.device.type, 1)

    def predict(self, images: Sequence[RGBImage]) -> list[Instances]:
        """Score (H, W, 3) uint8 RGB pictures of any sizes, in the order given.

        A picture's result depends on that picture alone: only pictures of one canvas share a
        batch.

        Raises:
            ValueError: An array is no RGB picture, or too long and thin to be resized.
        """
        by_canvas: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            by_canvas[place(image, self.config.preprocess).canvas].append(index)
        results: dict[int, Instances] = {}
        size = self.max_batch_size
        for indices in by_canvas.values():
            for start in range(0, len(indices), size):
                part = indices[start : start + size]
                batch = self.prepare([images[i] for i in part])
                results.update(zip(part, self.predict_batch(batch), strict=True))
        return [results[index] for index in range(len(images))]

    def warm_up(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Score a grey picture of each (height, width), so that the first real one is not slow."""
        for height, width in sizes:
            self.predict([np.full((height, width, 3), 128, dtype=np.uint8)])

    def prepare(self, images: Sequence[RGBImage]) -> ImageBatch:
        """The first half of ``predict``, for pictures of one canvas: what needs no device."""
        return preprocess(images, self.config.preprocess)

    @torch.inference_mode()
    def predict_batch(self, batch: ImageBatch) -> list[Instances]:
        """The second half of ``predict``: a prepared batch -> the instances of each picture."""
        return postprocess(self.forward(batch), batch.geometries, self.inference)

    @torch.inference_mode()
    def forward(self, batch: ImageBatch) -> SOLOv2Output:
        """The raw predictions for a batch, on this predictor's device and in its precision."""
        pixels = batch.pixels.to(self.device, memory_format=self._layout)
        if self.dtype == torch.float32:
            return self.network(pixels)
        with torch.autocast(self.device.type, dtype=self.dtype):
            return self.network(pixels)


def _memory_format(backbone: str, device: torch.device, *, exact: bool) -> torch.memory_format:
    """The layout of the feature maps: channels last on a CPU.

    MobileNetV2's depthwise convolutions run several times as fast with it, on any device.
    """
    if backbone == "mobilenet_v2" or (device.type == "cpu" and not exact):
        return torch.channels_last
    return torch.contiguous_format


def _auto_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _assemble(checkpoint: Checkpoint) -> SOLOv2:
    """The network with the checkpoint's own tensors as its parameters, none initialised twice."""
    try:
        with torch.device("meta"):
            model = build_solov2(checkpoint.config)
        model.load_state_dict(checkpoint.state_dict, assign=True)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the weights do not fit their config ({reason})") from error
    return model.requires_grad_(requires_grad=False)
