"""When to log and when to save, and what happened in between."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from model.training.config import TrainConfig
from model.training.losses import Losses


@dataclass(frozen=True, slots=True)
class Seen:
    """Means over the steps since the last look."""

    mask: float
    category: float
    steps_per_s: float


class Pace:
    """Keeps the losses since the last log line, and the time since the last state on disk."""

    def __init__(self, config: TrainConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._losses: list[torch.Tensor] = []
        self._logged = self._saved = self._clock()

    def add(self, losses: Losses) -> None:
        self._losses.append(torch.stack([losses.mask, losses.category]))

    def take(self) -> Seen:
        """The means so far; starts anew."""
        mask, category = torch.stack(self._losses).mean(0).tolist()
        now = self._clock()
        seen = Seen(mask, category, len(self._losses) / (now - self._logged))
        self._losses, self._logged = [], now
        return seen

    def state_is_due(self, iteration: int) -> bool:
        waited = self._clock() - self._saved
        return iteration % self._config.checkpoint_every == 0 or (
            waited >= self._config.checkpoint_every_s
        )

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Save and measure in here; the time it takes is not held against the steps."""
        started = self._clock()
        yield
        self._saved = self._clock()
        self._logged += self._saved - started
