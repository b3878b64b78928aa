"""A device's place: the worker that is there now, and the jobs it has."""

import logging
from collections.abc import Iterable

from service.dispatch.jobs import Job
from service.dispatch.workers import Worker
from service.protocol import Frame, Kind, WorkerInfo
from service.settings import Settings

logger = logging.getLogger(__name__)


START_TIMEOUT_S = 600.0  # for a device's first worker
MIN_RESTART_TIMEOUT_S = 60.0


class Slot:
    """Jobs go from ``waiting``, where the next batch grows, to ``running``, then away."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.worker: Worker | None = None  # while it is ready
        self.ever_ready = False
        self.ready_since = 0.0  # on the event loop's clock
        self.exit_code: int | None = None  # of the last worker that ended
        self.failures = 0  # workers in a row that ended and answered nothing since the last
        self.silent_ticks = 0  # spent busy since the worker's last sign
        self.start_timeout_s = START_TIMEOUT_S
        self.slowness_s = 0.0  # what a batch may take, going by how long the warm-up took
        self._max_batch_size = 1
        self._waiting: dict[int, Job] = {}
        self._running: dict[int, Job] = {}

    def take_on(self, worker: Worker, info: WorkerInfo, now: float, *, start_s: float) -> None:
        self.worker = worker
        self.start_timeout_s = max(MIN_RESTART_TIMEOUT_S, 5 * start_s)
        self.slowness_s = 3 * info.start_s.get("warm_up", 0.0)
        self.ready_since = now
        self.device = info.device
        self.ever_ready = True
        self._max_batch_size = info.max_batch_size

    def jobs(self) -> list[Job]:
        return [*self._waiting.values(), *self._running.values()]

    def load(self) -> int:
        """Pixels the network has to compute before it is free."""
        return sum(job.pixels for job in self.jobs())

    def first_waiting(self) -> Job | None:
        """The first of the batch that is growing; None where there is none."""
        return next(iter(self._waiting.values()), None)

    def has_room_for(self, job: Job, settings: Settings) -> bool:
        """Whether the job may join the next batch.

        One that a worker ended on goes alone, so that no other is suspected next time. What the
        images of a batch take when decoded is bounded by the largest image that is allowed.
        """
        if self.worker is None or self.worker.unread_bytes() > settings.max_image_bytes:
            return False
        if job.lost_workers or any(other.lost_workers for other in self.jobs()):
            return not self.jobs()
        growing = self.first_waiting()
        if growing is not None and growing.canvas != job.canvas:
            return False
        size = len(self._waiting) + 1
        decoded = job.source_pixels + sum(other.source_pixels for other in self._waiting.values())
        return size == 1 or (
            size <= self._max_batch_size
            and size * job.pixels <= settings.max_batch_pixels
            and decoded <= settings.max_image_pixels
        )

    def send(self, job: Job) -> None:
        self._waiting[job.number] = job
        self._tell(Frame(Kind.IMAGE, job.number, job.image.data))

    def start(self, numbers: Iterable[int]) -> list[Job]:
        """These jobs are on the device now; those not given up are returned."""
        started = [self._waiting.pop(number) for number in numbers if number in self._waiting]
        self._running.update((job.number, job) for job in started)
        return started

    def finish(self, number: int) -> Job | None:
        """The job that was answered, unless it was given up before."""
        return self._running.pop(number, None) or self._waiting.pop(number, None)

    def give_up(self, job: Job) -> bool:
        """Nobody waits for it any more; what is on the device already goes on."""
        if self._waiting.pop(job.number, None) is not None:
            self._tell(Frame(Kind.CANCEL, job.number))
            return True
        return job.number in self._running

    def take_all(self) -> list[Job]:
        """The worker is gone: its jobs are nobody's now."""
        jobs = self.jobs()
        self.worker = None
        self._waiting.clear()
        self._running.clear()
        self.silent_ticks = 0
        return jobs

    def _tell(self, frame: Frame) -> None:
        assert self.worker is not None
        try:
            self.worker.send(frame)
        except Exception:
            logger.exception("a worker cannot be spoken to")
            self.worker.kill()  # its jobs come back when it has ended
