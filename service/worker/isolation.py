"""A batch that fails must cost only the image that is at fault."""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from model.structures import ImageBatch, Instances
from service.logs import log_event

logger = logging.getLogger(__name__)

Canvas = tuple[int, int]
Infer = Callable[[ImageBatch], list[Instances]]

#: Full batches of a canvas that have to succeed before one image more is tried again.
_SUCCESSES_TO_GROW = 50

#: How errors other than torch.OutOfMemoryError say the same: DefaultCPUAllocator, the CUDA
#: runtime, cuBLAS and cuDNN.
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "ALLOC_FAILED")


class DeviceLostError(Exception):
    """Nothing will ever run on this device again in this process."""


@dataclass(slots=True)
class Outcome:
    """What became of a batch, image by image; None stands for an image that failed."""

    instances: list[Instances | None] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # of the parts that were run together
    out_of_memory: int = 0
    retries: int = 0


class Isolation:
    """Runs batches, halves those that fail until the culprit stands alone.

    Out of memory is nobody's fault: the half that fits is remembered for the canvas, and raised
    again slowly.

    Args:
        infer: Runs a batch.
        device: Where; "cpu" or "cuda:N".
    """

    def __init__(self, infer: Infer, device: str) -> None:
        self._infer = infer
        self._device = torch.device(device)
        self._limits: dict[Canvas, _Limit] = {}

    def run(self, images: list[ImageBatch]) -> Outcome:
        """Images of one canvas, one or more, in batches of a size that fits.

        Raises:
            DeviceLostError: The process must end; none of the images is at fault for sure.
        """
        outcome = Outcome()
        limit = self._limits.get(images[0].geometries[0].canvas)
        size = limit.size if limit else len(images)
        for start in range(0, len(images), size):
            part = images[start : start + size]
            self._run(part, outcome)
            if limit and len(part) == size < len(images) and not outcome.out_of_memory:
                limit.count_success()
        return outcome

    def _run(self, images: list[ImageBatch], outcome: Outcome) -> None:
        try:
            outcome.instances += self._infer(_join(images))
            outcome.sizes.append(len(images))
        except Exception as error:
            exhausted = _is_out_of_memory(error)
            logger.warning("a batch of %d failed", len(images), exc_info=error)
        else:
            return
        # Outside the handler: inside, the error keeps the tensors of the failed attempt alive.
        self._check_device()
        half = (len(images) + 1) // 2
        if exhausted:
            outcome.out_of_memory += 1
            self._free_memory()
            self._remember(images[0].geometries[0].canvas, half)
        if len(images) == 1:
            outcome.instances.append(None)
            return
        outcome.retries += 2
        self._run(images[:half], outcome)
        self._run(images[half:], outcome)

    def _remember(self, canvas: Canvas, size: int) -> None:
        self._limits[canvas] = _Limit(size)
        log_event(logger, "batch_limit_lowered", size=size)

    def _check_device(self) -> None:
        if self._device.type == "cuda":
            try:
                torch.cuda.synchronize(self._device)
            except RuntimeError as error:
                raise DeviceLostError(str(error).splitlines()[0]) from error

    def _free_memory(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass(slots=True)
class _Limit:
    size: int
    successes: int = 0

    def count_success(self) -> None:
        """A full batch succeeded; once in a while the next one may be larger."""
        self.successes += 1
        if self.successes == _SUCCESSES_TO_GROW:
            self.size, self.successes = self.size + 1, 0
            log_event(logger, "batch_limit_raised", size=self.size)


def _join(images: list[ImageBatch]) -> ImageBatch:
    if len(images) == 1:
        return images[0]
    return ImageBatch(
        torch.cat([image.pixels for image in images]),
        tuple(image.geometries[0] for image in images),
    )


def _is_out_of_memory(error: Exception) -> bool:
    """On the device or in the machine's memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    )
