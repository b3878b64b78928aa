"""Images that wait for a worker, in the order in which they will be taken."""

import asyncio
from bisect import insort
from dataclasses import dataclass, field

from service.dispatch.canvas import Canvas
from service.errors import ServiceError
from service.protocol import EncodedImage


@dataclass(eq=False, slots=True)
class Job:
    """One image of one request."""

    number: int
    image: EncodedImage
    canvas: Canvas
    turn: float  # whose is lower is taken first
    admitted: float  # on the event loop's clock
    answer: asyncio.Future[bytes] = field(repr=False)
    lost_workers: int = 0
    expiry: asyncio.TimerHandle | None = None

    @property
    def place(self) -> tuple[float, int]:
        """In the line: who has the lowest is taken first."""
        return self.turn, self.number

    @property
    def pixels(self) -> int:
        """Of its canvas: what the network computes."""
        return self.canvas[0] * self.canvas[1]

    @property
    def source_pixels(self) -> int:
        """Of the image itself: what decoding it takes in memory."""
        return self.image.width * self.image.height

    def settle(self, outcome: bytes | ServiceError) -> None:
        """Answer, unless that has happened, or the caller has left and cancelled it."""
        if self.answer.done():
            return
        if isinstance(outcome, ServiceError):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class JobQueue:
    """Jobs by canvas, each canvas in turn."""

    def __init__(self) -> None:
        self._by_canvas: dict[Canvas, list[Job]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_canvas.values()))

    def add(self, job: Job) -> None:
        insort(self._by_canvas.setdefault(job.canvas, []), job, key=_place)

    def discard(self, job: Job) -> bool:
        """Take a job out; false where it was not waiting."""
        jobs = self._by_canvas.get(job.canvas, [])
        if job not in jobs:
            return False
        jobs.remove(job)
        if not jobs:
            del self._by_canvas[job.canvas]
        return True

    def first(self, canvas: Canvas | None = None) -> Job | None:
        """Whose turn it is, of all or of those of one canvas."""
        if canvas is not None:
            return next(iter(self._by_canvas.get(canvas, ())), None)
        return min((jobs[0] for jobs in self._by_canvas.values()), key=_place, default=None)

    def all(self) -> list[Job]:
        return [job for jobs in self._by_canvas.values() for job in jobs]


def _place(job: Job) -> tuple[float, int]:
    return job.place
