"""How the processors are divided among the images that a CPU computes at once."""

import threading
from collections.abc import Callable

from model.structures import ImageBatch, Instances

Infer = Callable[[ImageBatch], list[Instances]]

_MAX_LANES = 4  # each holds the feature maps of an image


def count_lanes(processors: int) -> int:
    """How many threads should infer at once on a CPU."""
    return min(processors, _MAX_LANES)


class SharedProcessors:
    """An infer function that may run in several threads at once.

    A lone image gets all processors. The threads of one image wait for each other at every layer,
    and worse where others want their processors: so several images with fewer threads each are
    done sooner than one after the other.

    Args:
        infer: Runs a batch.
        processors: To be divided.
        set_threads: Sets how many threads torch uses in the calling thread.
    """

    def __init__(self, infer: Infer, processors: int, set_threads: Callable[[int], None]) -> None:
        self._infer = infer
        self._processors = processors
        self._set_threads = set_threads
        self._active = 0
        self._lock = threading.Lock()

    def __call__(self, batch: ImageBatch) -> list[Instances]:
        with self._lock:
            self._active += 1
            self._set_threads(max(1, self._processors // self._active))
        try:
            return self._infer(batch)
        finally:
            with self._lock:
                self._active -= 1
