"""How far a batch is."""

import time
from collections.abc import Callable
from datetime import timedelta

from service.batch.results import Result


class Tally:
    """Counts results, and forecasts the end from the pace so far.

    Args:
        found: Results that were there before this run.
        clock: Seconds.
    """

    def __init__(self, found: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.found = found
        self.new = 0
        self.errors = 0
        self.total: int | None = None
        """Images in all, once that is known."""

        self._clock = clock
        self._first: float | None = None

    @property
    def done(self) -> int:
        return self.found + self.new

    def note(self, result: Result) -> None:
        if self._first is None:  # from here on: that a model loads says nothing about the pace
            self._first = self._clock()
        self.new += 1
        self.errors += result.error is not None

    def __str__(self) -> str:
        """``120 of 2000, 35.1/s, 3 errors, 0:00:54 left``."""
        parts = [f"{self.done} of {self.total}" if self.total else f"{self.done}"]
        rate = self._rate()
        if rate:
            parts.append(f"{rate:.1f}/s")
        parts.append(f"{self.errors} errors")
        if rate and self.total:
            parts.append(f"{timedelta(seconds=round(max(0, self.total - self.done) / rate))} left")
        return ", ".join(parts)

    def _rate(self) -> float:
        seconds = 0.0 if self._first is None else self._clock() - self._first
        return (self.new - 1) / seconds if seconds > 0 else 0.0
