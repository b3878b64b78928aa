"""Who may wait, for how long, and which worker takes what next."""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.dispatch.admission import Admission
from service.dispatch.canvas import Canvas, canvas_of
from service.dispatch.jobs import Job, JobQueue
from service.dispatch.slot import Slot
from service.dispatch.workers import Worker, WorkerLostError, WorkerProcess, WorkerStartError
from service.errors import (
    BadImageError,
    ScoringError,
    ServiceError,
    UnavailableError,
)
from service.logs import log_event
from service.metrics import Metrics
from service.protocol import (
    BatchReport,
    EncodedImage,
    Frame,
    Kind,
    WorkerStart,
    unpack_jobs,
)
from service.settings import Settings

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3  # in a row, of every worker, before the first is ever ready
FAILURES_TO_REFUSE = 3  # in a row, of every worker: images are refused from then on
MAX_FAILURES = 8  # in a row, of every worker: the process gives up
MAX_LOST_WORKERS = 2  # by one image
MAX_CONVICTED = 8  # images in a row that are believed to be at fault, and not the workers
MAX_BACKOFF_S = 30.0
MAX_DESERTED_S = 60.0  # without a ready worker, until new clients should go elsewhere
LONG_LIFE_S = 300.0  # a worker that ends after it was ready this long is not one in a row

_TICK_S = 0.5
_STALE_HEARTBEAT_S = 10.0

LOADING = "the model is still loading"
STOPPING = "the service is shutting down"
FAILING = "the workers keep failing"
BROKEN = "the model cannot be loaded"
STUCK = "the dispatcher has stopped"


@dataclass(frozen=True, slots=True)
class Health:
    """Why not, for each question a prober may ask; None means yes."""

    dead: str | None = None  # only a restart can help
    unhealthy: str | None = None  # Azure's question: has it ever been ready, and does it live?
    unready: str | None = None  # send no new clients
    refusing: str | None = None  # images are not taken


class Dispatcher(Protocol):
    """What the HTTP side knows of everything behind it."""

    async def start(self) -> None:
        """Begin to load; return without waiting for it."""

    async def stop(self) -> None:
        """Refuse what waits and leave no process and no task behind."""

    def retry_after_s(self) -> int:
        """Until those that wait are done, going by the pace of the last; one second at least."""

    def health(self) -> Health:
        """At once, whatever the workers do."""

    def submit(self, images: Sequence[EncodedImage]) -> list[asyncio.Future[bytes]]:
        """The JSON fragment of each image, to come; all are taken, or none.

        Who does not want one any more cancels its future.

        Raises:
            ServiceError: None is taken. The futures fail with it too, each for its image alone.
        """


class LocalDispatcher:
    """Feeds the workers of this machine, one on each device, and replaces those that end.

    Every worker holds the batch that is on its device and the one after that, which still grows.
    The least loaded worker takes the next image, whoever's turn it is first.

    Once ready, images wait while a worker is replaced. Those that were with the lost one are tried
    once more, each alone, so that the one that ends a second worker is the one at fault.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics | None = None,
        make_worker: Callable[[WorkerStart], Worker] = WorkerProcess,
    ) -> None:
        self.failure: str | None = None
        """Why scoring has ended for good: one line for the operator."""

        self._settings = settings
        self._metrics = metrics or Metrics()
        self._make_worker = make_worker
        self._slots = [Slot(device) for device in settings.devices]
        self._tasks: list[asyncio.Task[None]] = []
        self._watcher: asyncio.Task[None] | None = None
        self._heartbeat = 0.0
        self._draining = False
        self._closed = False
        self._stopped = False
        self._queue = JobQueue()
        self._admission = Admission(settings, self._metrics, self._forget)
        self._convicted = 0  # images in a row that ended two workers
        self._deserted_ticks = 0  # since there was a worker that is ready
        self._sizes = (1, 1)  # short and long side of the model's input

    async def start(self) -> None:
        self._heartbeat = _now()
        self._watcher = asyncio.create_task(self._watch())
        for slot in self._slots:
            self._keep(slot)

    async def stop(self) -> None:
        tasks = [*self._tasks, *([self._watcher] if self._watcher else [])]
        if not self._stopped:  # to cancel twice would interrupt the end of the workers
            self._stopped = True
            self.close()
            for task in tasks:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def drain(self) -> None:
        """Say from now on that no new clients should come; go on for those that do."""
        self._draining = True
        self._show_readiness()

    def close(self) -> None:
        """Take no images any more, and refuse those that are not done."""
        self._closed = True
        self._show_readiness()
        self._refuse_all(STOPPING)

    def retry_after_s(self) -> int:
        return self._admission.retry_after_s()

    def health(self) -> Health:
        loading = None if self._ever_ready() else LOADING
        warming = None if all(map(_has_tried, self._slots)) else LOADING
        ended = STOPPING if self._closed or self._stopped else BROKEN if self.failure else None
        failing = FAILING if self._all_failed(FAILURES_TO_REFUSE) else None
        deserted = FAILING if self._deserted_ticks * _TICK_S > MAX_DESERTED_S else None
        draining = STOPPING if self._draining else None
        dead = self._dead()
        return Health(
            dead=dead,
            unhealthy=dead or loading,
            unready=ended or draining or dead or failing or warming or deserted,
            refusing=ended or loading or failing,
        )

    def submit(self, images: Sequence[EncodedImage]) -> list[asyncio.Future[bytes]]:
        refusing = self.health().refusing
        if refusing is not None:
            raise UnavailableError(refusing)
        for job in (jobs := self._admission.admit(images, self._canvas)):
            self._enqueue(job)
        # Later: more of what came together can go together.
        asyncio.get_running_loop().call_soon(self._dispatch)
        return [job.answer for job in jobs]

    # What waits

    def _canvas(self, image: EncodedImage) -> Canvas:
        short_side, long_side = self._sizes
        return canvas_of(image.width, image.height, short_side=short_side, long_side=long_side)

    def _enqueue(self, job: Job) -> None:
        self._queue.add(job)
        self._metrics.queue_depth.labels(_label(job.canvas)).inc()

    def _dequeue(self, job: Job) -> None:
        if self._queue.discard(job):
            self._metrics.queue_depth.labels(_label(job.canvas)).dec()

    def _forget(self, job: Job) -> None:
        """Who left, or came too late, costs no work."""
        self._dequeue(job)
        with_worker = any(slot.give_up(job) for slot in self._slots)
        if job.answer.cancelled():
            self._metrics.cancelled.labels("worker" if with_worker else "queue").inc()
        if with_worker:
            self._dispatch()

    def _refuse_all(self, reason: str) -> None:
        for job in [*self._queue.all(), *(job for slot in self._slots for job in slot.jobs())]:
            job.settle(UnavailableError(reason))

    # Who takes it

    def _dispatch(self) -> None:
        """Send to the workers all that they have room for."""
        while (match := self._next_match()) is not None:
            slot, job = match
            self._dequeue(job)
            if not job.answer.done():  # its release is about to come
                slot.send(job)

    def _next_match(self) -> tuple[Slot, Job] | None:
        oldest = self._queue.first()
        if oldest is None:
            return None
        for slot in sorted(self._slots, key=Slot.load):
            growing = slot.first_waiting()
            # A batch grows no more once the turn of another canvas has come: else its own kind
            # could keep it growing, and the other one waiting, for ever.
            if growing is None or oldest.place < growing.place:
                job: Job | None = oldest
            else:
                job = self._queue.first(growing.canvas)
            if job is not None and slot.has_room_for(job, self._settings):
                return slot, job
        return None

    # The workers

    def _keep(self, slot: Slot) -> None:
        self._tasks.append(asyncio.create_task(self._keep_a_worker(slot)))

    async def _keep_a_worker(self, slot: Slot) -> None:
        """Replace each worker that ends, until it makes no sense any more."""
        while self.failure is None:
            try:
                await self._use_a_worker(slot)
            except WorkerStartError as error:
                if not self._others_serve(slot):
                    self._fail(str(error))
                log_event(logger, "worker_cannot_start", device=slot.device, why=str(error))
            except WorkerLostError as error:
                log_event(logger, "worker_lost", device=slot.device, why=str(error))
            except Exception:
                logger.exception("the dispatcher failed at a worker")
            if self.failure is None:
                await self._back_off(slot)

    def _others_serve(self, slot: Slot) -> bool:
        return any(
            other.ever_ready and other.failures < FAILURES_TO_REFUSE
            for other in self._slots
            if other is not slot
        )

    async def _use_a_worker(self, slot: Slot) -> None:
        """Have one worker from its start to its end, which is always an error."""
        settings = self._settings.model_dump_json()
        worker = self._make_worker(WorkerStart(settings, slot.device, workers=len(self._slots)))
        try:
            await self._start(slot, worker)
            await self._listen(slot, worker)
        finally:
            if slot.worker is not None and _now() - slot.ready_since > LONG_LIFE_S:
                slot.failures = 0
            self._take_back_jobs(slot)  # before it has ended: that may take its time
            slot.exit_code = await worker.stop()

    async def _start(self, slot: Slot, worker: Worker) -> None:
        begun = _now()
        try:
            async with asyncio.timeout(slot.start_timeout_s):
                info = await worker.start()
        except TimeoutError as error:
            raise WorkerLostError("the worker did not start in time") from error
        self._sizes = (info.short_side, info.long_side)
        slot.take_on(worker, info, _now(), start_s=_now() - begun)
        if self._settings.devices == ("auto",) and len(self._slots) == 1:
            self._slots += [Slot(device) for device in info.devices if device != info.device]
            for other in self._slots[1:]:
                self._keep(other)
        self._show_readiness()
        seconds = round(_now() - begun, 2)
        log_event(logger, "worker_ready", device=slot.device, seconds=seconds, **info.start_s)
        self._dispatch()

    async def _listen(self, slot: Slot, worker: Worker) -> None:
        while True:
            frame = await worker.receive()
            slot.silent_ticks = 0
            match frame.kind:
                case Kind.STARTED:
                    self._note_start(slot, unpack_jobs(frame.payload))
                case Kind.REPORT:
                    self._note_report(slot, BatchReport.from_json(frame.payload))
                case _:
                    self._finish(slot, frame)
            self._dispatch()

    def _note_start(self, slot: Slot, numbers: Sequence[int]) -> None:
        queued = self._metrics.stage_seconds.labels("queue")
        for job in slot.start(numbers):
            queued.observe(_now() - job.admitted)

    def _note_report(self, slot: Slot, report: BatchReport) -> None:
        metrics = self._metrics
        for size in report.sizes:
            metrics.batch_size.observe(size)
        metrics.batch_padding.observe(report.padding_ratio)
        metrics.out_of_memory.inc(report.out_of_memory)
        metrics.batch_retries.inc(report.retries)
        metrics.device_memory.labels(slot.device).set(report.device_memory_bytes)
        for objects in report.objects:
            metrics.objects.observe(objects)
        for stage, durations in report.stage_s.items():
            for duration in durations:
                metrics.stage_seconds.labels(stage).observe(duration)

    def _finish(self, slot: Slot, frame: Frame) -> None:
        outcome = outcome_of(frame)  # first: if it is nonsense, the job is still the slot's to lose
        job = slot.finish(frame.job)
        if job is None:  # its client had left
            return
        self._admission.note_scored()
        if frame.kind is not Kind.FAILED:
            slot.failures = self._convicted = 0
        job.settle(outcome)

    def _take_back_jobs(self, slot: Slot) -> None:
        for job in slot.take_all():
            job.lost_workers += 1
            if job.answer.done():
                continue
            if job.lost_workers < MAX_LOST_WORKERS:
                self._enqueue(job)
            else:
                log_event(logger, "image_ended_workers", bytes=len(job.image.data))
                job.settle(ScoringError())
                self._convicted += 1
                if self._convicted <= MAX_CONVICTED:
                    slot.failures = -1  # with this one, none: the worker is not to blame
        self._dispatch()

    async def _back_off(self, slot: Slot) -> None:
        """Give up, or wait before the next worker: not after one failure, then ever longer."""
        slot.failures += 1
        if self._all_failed(MAX_FAILURES if self._ever_ready() else MAX_FAILED_STARTS):
            code = slot.exit_code
            self._fail(f"the worker ended {slot.failures} times in a row (exit code {code})")
            return
        self._metrics.worker_restarts.labels(slot.device).inc()
        self._show_readiness()
        if self._all_failed(FAILURES_TO_REFUSE):
            self._refuse_all(FAILING)
        if slot.failures > 1:
            doublings = min(slot.failures, 10) - 3  # 2.0 ** 1024 is an error
            await asyncio.sleep(min(MAX_BACKOFF_S, 2.0**doublings))

    def _ever_ready(self) -> bool:
        return any(slot.ever_ready for slot in self._slots)

    def _all_failed(self, times: int) -> bool:
        return all(slot.worker is None and slot.failures >= times for slot in self._slots)

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._show_readiness()
        self._refuse_all(BROKEN)

    # Whether all is well

    async def _watch(self) -> None:
        """Beat; replace workers that hang; see to it that nothing waits in vain.

        Time is counted in ticks, so that a process that was suspended does not find its workers
        silent all that time.
        """
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                self._dispatch()
                self._replace_hanging()
                self._show_readiness()
                self._heartbeat = _now()
            except Exception:
                logger.exception("the dispatcher failed at a tick")

    def _replace_hanging(self) -> None:
        deserted = all(slot.worker is None for slot in self._slots)
        self._deserted_ticks = self._deserted_ticks + 1 if deserted else 0
        for slot in self._slots:
            patience = math.ceil(max(self._settings.worker_timeout_s, slot.slowness_s) / _TICK_S)
            if slot.jobs():  # else it owes nothing, but that its clients left is no sign of life
                slot.silent_ticks += 1
            if slot.silent_ticks > patience and slot.worker is not None:
                log_event(logger, "worker_hangs", device=slot.device)
                slot.silent_ticks = 0
                slot.worker.kill()

    def _dead(self) -> str | None:
        if self._watcher is None or self._stopped:
            return None
        stale = _now() - self._heartbeat > _STALE_HEARTBEAT_S
        ended = any(task.done() for task in self._tasks) and self.failure is None
        return STUCK if stale or ended or self._watcher.done() else None

    def _show_readiness(self) -> None:
        self._metrics.workers.set(len(self._slots))
        self._metrics.workers_ready.set(sum(slot.worker is not None for slot in self._slots))
        self._metrics.ready.set(self.health().unready is None)


def _now() -> float:
    """Seconds on a clock that nobody sets."""
    return asyncio.get_running_loop().time()


def _label(canvas: Canvas) -> str:
    return f"{canvas[0]}x{canvas[1]}"


def _has_tried(slot: Slot) -> bool:
    """One device that cannot be used must not keep clients from the others for ever."""
    return slot.ever_ready or slot.failures >= MAX_FAILED_STARTS


def outcome_of(frame: Frame) -> bytes | ServiceError:
    match frame.kind:
        case Kind.RESULT:
            return frame.payload
        case Kind.BAD_IMAGE:
            return BadImageError(frame.payload.decode())
        case Kind.FAILED:
            return ScoringError()
        case _:
            raise WorkerLostError(f"the worker answered an image with {frame.kind.name}")
