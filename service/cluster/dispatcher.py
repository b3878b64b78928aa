"""Who may wait, and which images are with the replicas of a cluster."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from service.dispatch.admission import Admission
from service.dispatch.canvas import Canvas
from service.dispatch.dispatcher import (
    FAILING,
    LOADING,
    MAX_DESERTED_S,
    STOPPING,
    STUCK,
    Health,
)
from service.dispatch.jobs import Job, JobQueue
from service.errors import ScoringError, ServiceError, UnavailableError
from service.logs import log_event
from service.metrics import Metrics
from service.protocol import EncodedImage
from service.settings import Settings

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_RESEND_DELAY_S = 0.2  # until the loss of a replica has got about

# Replicas sort what they have by canvas; here all wait in one line.
_ONE_LINE: Canvas = (0, 0)


class ReplicaLostError(Exception):
    """A replica ended, or takes no images, with an image sent to it: another may score it."""


class Replicas(Protocol):
    """What the dispatcher needs of those that score."""

    async def score(self, image: EncodedImage) -> bytes:
        """The JSON fragment of an image, from the replica that has least to do.

        Raises:
            ServiceError: The image cannot be scored.
            ReplicaLostError: It may be elsewhere.
        """

    async def count(self) -> int:
        """How many there are now."""


class ClusterDispatcher:
    """Sends images to replicas, which come and go; each supervises workers of its own.

    No more are sent than the replicas can hold, so that requests take turns here, and what waits
    can go to a replica that has just come. A replica that is gone is no image's fault: its images
    are sent again for as long as they have time. An image that ends workers is found out by the
    replica.

    Args:
        settings: The deployment's.
        metrics: Shows what waits.
        replicas: All there are.
        room: Images that one replica holds.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, replicas: Replicas, *, room: int
    ) -> None:
        self._metrics = metrics
        self._replicas = replicas
        self._room = room
        self._count = 0  # of replicas
        self._ever_ready = False
        self._deserted_since: float | None = None
        self._closed = False
        self._watcher: asyncio.Task[None] | None = None
        self._queue = JobQueue()
        self._sent: dict[Job, asyncio.Task[None]] = {}
        self._admission = Admission(settings, metrics, self._forget)

    async def start(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        self._closed = True
        for job in [*self._queue.all(), *self._sent]:
            job.settle(UnavailableError(STOPPING))
        tasks = [*self._sent.values(), *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def retry_after_s(self) -> int:
        return self._admission.retry_after_s()

    def health(self) -> Health:
        dead = STUCK if self._watcher and self._watcher.done() and not self._closed else None
        loading = None if self._ever_ready else LOADING
        ended = STOPPING if self._closed else None
        return Health(
            dead=dead,
            unhealthy=dead or loading,
            unready=ended or dead or loading or (FAILING if self._deserted() else None),
            refusing=ended or loading,
        )

    def submit(self, images: Sequence[EncodedImage]) -> list[asyncio.Future[bytes]]:
        refusing = self.health().refusing
        if refusing is not None:
            raise UnavailableError(refusing)
        jobs = self._admission.admit(images, lambda _: _ONE_LINE)
        for job in jobs:
            self._queue.add(job)
        self._send()
        return [job.answer for job in jobs]

    def _send(self) -> None:
        """Send all that the replicas have room for."""
        while len(self._sent) < self._room * max(1, self._count):
            job = self._queue.first()
            if job is None:
                break
            self._queue.discard(job)
            if not job.answer.done():
                self._sent[job] = asyncio.create_task(self._score(job))
        self._metrics.queue_depth.labels("all").set(len(self._queue))

    async def _score(self, job: Job) -> None:
        try:
            job.settle(await self._outcome(job))
            self._admission.note_scored()
        finally:
            del self._sent[job]
            self._send()

    async def _outcome(self, job: Job) -> bytes | ServiceError:
        while True:
            try:
                return await self._replicas.score(job.image)
            except ReplicaLostError as error:
                log_event(logger, "replica_lost", why=str(error))
            except ServiceError as error:
                return error
            except Exception:
                logger.exception("an image of %d bytes was not answered", len(job.image.data))
                return ScoringError()
            await asyncio.sleep(_RESEND_DELAY_S)

    def _forget(self, job: Job) -> None:
        """Who left, or came too late, costs no work."""
        task = self._sent.get(job)
        self._queue.discard(job)
        if job.answer.cancelled():
            self._metrics.cancelled.labels("worker" if task else "queue").inc()
        if task is not None:
            task.cancel()  # harmless where it is the one that has just answered
        self._metrics.queue_depth.labels("all").set(len(self._queue))

    async def _watch(self) -> None:
        """Know how many replicas there are; what cannot be told has not changed."""
        while True:
            try:
                self._note_count(await self._replicas.count())
            except Exception:
                logger.exception("the replicas cannot be counted")
            self._send()
            await asyncio.sleep(_LOOK_EVERY_S)

    def _note_count(self, count: int) -> None:
        self._count = count
        self._ever_ready = self._ever_ready or count > 0
        if count:
            self._deserted_since = None
        elif self._deserted_since is None:
            self._deserted_since = asyncio.get_running_loop().time()
        self._metrics.workers_ready.set(count)
        self._metrics.ready.set(self.health().unready is None)

    def _deserted(self) -> bool:
        """Whether new clients should go elsewhere, having no replica here for too long."""
        since = self._deserted_since
        return since is not None and asyncio.get_running_loop().time() - since > MAX_DESERTED_S
