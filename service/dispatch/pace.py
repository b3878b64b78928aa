"""How fast images are being scored."""

from collections import deque

_REMEMBERED = 64


class Pace:
    """Measured over the last images, as long as there was always one to do."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_REMEMBERED)
        self._before: float | None = None  # the pace when there was last something to do

    def begin(self, now: float) -> None:
        """There is something to do again: what was idle time must not count as slowness."""
        self._before = self.seconds_per_image()
        self._times.clear()
        self._times.append(now)

    def note(self, now: float) -> None:
        """One more image is done."""
        self._times.append(now)

    def seconds_per_image(self) -> float | None:
        """None until the first image is done."""
        if len(self._times) < 2:
            return self._before
        return (self._times[-1] - self._times[0]) / (len(self._times) - 1)
