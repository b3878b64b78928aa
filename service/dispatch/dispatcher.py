"""Who may wait, for how long, and what the worker does next."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.dispatch.workers import WorkerLostError, WorkerProcess, WorkerStartError
from service.errors import (
    QueueFullError,
    ScoringError,
    ScoringTimeoutError,
    ServiceError,
    UnavailableError,
)
from service.logs import log_event
from service.protocol import EncodedImage
from service.settings import Settings

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3  # in a row
MAX_LOST_WORKERS = 2  # by one image

LOADING = "the model is still loading"
STOPPING = "the service is shutting down"
BROKEN = "the model cannot be loaded"


class Dispatcher(Protocol):
    """What the HTTP side knows of everything behind it."""

    async def start(self) -> None:
        """Begin to load; return without waiting for it."""

    async def stop(self) -> None:
        """Refuse what waits and leave no process and no task behind."""

    def unavailable(self) -> str | None:
        """Why images are refused now; None while they are taken."""

    async def score(self, image: EncodedImage) -> bytes:
        """The JSON fragment of one image.

        Raises:
            ServiceError: One of its kinds; the image alone is affected.
        """


class Worker(Protocol):
    """What the dispatcher needs of a worker; see ``WorkerProcess``."""

    async def start(self) -> None: ...
    async def score(self, image: EncodedImage) -> bytes: ...
    async def wait(self) -> int: ...
    async def stop(self) -> None: ...


@dataclass(eq=False, slots=True)
class _Job:
    image: EncodedImage
    answer: asyncio.Future[bytes]
    lost_workers: int = 0


class LocalDispatcher:
    """Feeds one worker on this machine, one image at a time, oldest first.

    Once ready, images wait while a worker that ended is replaced. The image it was working on is
    tried once more; an image that ends two workers is the one that fails.
    """

    def __init__(
        self, settings: Settings, make_worker: Callable[[Settings], Worker] = WorkerProcess
    ) -> None:
        self.failure: str | None = None
        """Why scoring has ended for good: one line for the operator."""

        self._settings = settings
        self._make_worker = make_worker
        self._refusal: str | None = LOADING
        self._waiting: deque[_Job] = deque()
        self._arrival = asyncio.Event()
        self._admitted_images = 0
        self._admitted_bytes = 0
        self._runner: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._runner = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._refusal = STOPPING
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait({self._runner})
        self._refuse(STOPPING)

    def unavailable(self) -> str | None:
        return self._refusal

    async def score(self, image: EncodedImage) -> bytes:
        job = self._admit(image)
        timeout_ms = self._settings.scoring_timeout_ms
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await job.answer
        except TimeoutError:
            raise ScoringTimeoutError(timeout_ms) from None
        finally:
            self._release(job)

    def _admit(self, image: EncodedImage) -> _Job:
        if self._refusal is not None:
            raise UnavailableError(self._refusal)
        images, size = self._admitted_images + 1, self._admitted_bytes + len(image.data)
        if images > self._settings.max_queue_images or size > self._settings.max_queue_bytes:
            raise QueueFullError("too many images are waiting; retry shortly")
        self._admitted_images, self._admitted_bytes = images, size
        job = _Job(image, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrival.set()
        return job

    def _release(self, job: _Job) -> None:
        """Forget a job however it ended, so that a caller who left costs neither room nor work."""
        self._admitted_images -= 1
        self._admitted_bytes -= len(job.image.data)
        if job in self._waiting:
            self._waiting.remove(job)

    def _refuse(self, reason: str) -> None:
        """Take no image from now on, and answer those that wait."""
        self._refusal = reason
        while self._waiting:
            _settle(self._waiting.popleft(), UnavailableError(reason))

    async def _run(self) -> None:
        try:
            self.failure = await self._keep_a_worker()
        except Exception:
            logger.exception("the dispatcher failed")
            self.failure = "the dispatcher failed; its log says more"
        self._refuse(BROKEN)

    async def _keep_a_worker(self) -> str:
        """Replace each worker that ends; return why none can be had any more."""
        failed_starts = 0
        while failed_starts < MAX_FAILED_STARTS:
            worker = self._make_worker(self._settings)
            try:
                await self._start(worker)
                failed_starts = 0
                await self._feed_until_lost(worker)
            except WorkerStartError as error:
                return str(error)
            except WorkerLostError as error:
                failed_starts += 1
                log_event(logger, "worker_failed_to_start", why=str(error), times=failed_starts)
            finally:
                await worker.stop()
        return f"the worker ended {failed_starts} times in a row before it was ready"

    async def _start(self, worker: Worker) -> None:
        begun = asyncio.get_running_loop().time()
        await worker.start()
        self._refusal = None
        seconds = round(asyncio.get_running_loop().time() - begun, 2)
        log_event(logger, "worker_ready", seconds=seconds)

    async def _feed_until_lost(self, worker: Worker) -> None:
        """Return once the worker has ended, whether it was busy or idle."""
        feeding = asyncio.create_task(self._feed(worker))
        ended = asyncio.create_task(worker.wait())
        try:
            await asyncio.wait({feeding, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (feeding, ended):
                task.cancel()
            await asyncio.wait({feeding, ended})
        log_event(logger, "worker_lost")
        with contextlib.suppress(WorkerLostError, asyncio.CancelledError):
            feeding.result()

    async def _feed(self, worker: Worker) -> None:
        while True:
            job = await self._next_job()
            if job.answer.done():
                continue
            try:
                _settle(job, await worker.score(job.image))
            except ServiceError as error:
                _settle(job, error)
            except BaseException:  # whatever ended the feeding, its job must not be forgotten
                self._retry(job)
                raise

    def _retry(self, job: _Job) -> None:
        job.lost_workers += 1
        if job.lost_workers < MAX_LOST_WORKERS:
            self._waiting.appendleft(job)
        else:
            _settle(job, ScoringError())

    async def _next_job(self) -> _Job:
        while not self._waiting:
            self._arrival.clear()
            await self._arrival.wait()
        return self._waiting.popleft()


def _settle(job: _Job, outcome: bytes | ServiceError) -> None:
    """Answer a job, unless its caller has left: that cancelled the future already."""
    if job.answer.done():
        return
    if isinstance(outcome, ServiceError):
        job.answer.set_exception(outcome)
    else:
        job.answer.set_result(outcome)
