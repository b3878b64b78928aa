import asyncio
import contextlib
import gc
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.dispatch import dispatcher as dispatching
from service.dispatch import slot as slots
from service.dispatch.dispatcher import FAILING, LOADING, STOPPING, STUCK, Health, LocalDispatcher
from service.dispatch.workers import WorkerLostError, WorkerStartError
from service.errors import (
    BadImageError,
    BadRequestError,
    QueueFullError,
    ScoringError,
    ScoringTimeoutError,
    UnavailableError,
)
from service.metrics import Metrics
from service.protocol import (
    BatchReport,
    EncodedImage,
    Frame,
    Kind,
    WorkerInfo,
    WorkerStart,
    pack_jobs,
)
from service.settings import Settings

pytestmark = pytest.mark.anyio

GONE = WorkerLostError("gone")


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "MAX_BACKOFF_S", 0.0)
    monkeypatch.setattr(dispatching, "_TICK_S", 0.01)


class Workshop:
    """Makes fake workers. Those that are busy answer by themselves; others when they are told."""

    def __init__(self, *, busy: bool = True, devices: tuple[str, ...] = ("cpu",)) -> None:
        self.busy = busy
        self.devices = [*devices]
        self.max_batch_size = 4
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self.broken_device: str | None = None
        self.start_errors: list[Exception] = []
        self.make_errors: list[Exception] = []
        self.stop_errors: list[Exception] = []
        self.workers: list[FakeWorker] = []
        self.metrics = Metrics()

    def make(self, start: WorkerStart) -> "FakeWorker":
        if self.make_errors:
            raise self.make_errors.pop(0)
        self.workers.append(FakeWorker(self, start.device))
        return self.workers[-1]

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics._registry.get_sample_value(f"solov2_{name}", labels) or 0.0

    @property
    def scored(self) -> list[bytes]:
        """What was sent to the workers, whichever."""
        return [data for worker in self.workers for data in worker.received]


class FakeWorker:
    def __init__(self, workshop: Workshop, device: str) -> None:
        self.workshop = workshop
        self.device = workshop.devices[0] if device == "auto" else device
        self.received: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.numbers: dict[bytes, int] = {}
        self.frames: asyncio.Queue[Frame | Exception] = asyncio.Queue()
        self.killed = False
        self.stopped = False
        self.send_error: Exception | None = None
        self.unread = 0

    async def start(self) -> WorkerInfo:
        await self.workshop.may_start.wait()
        if self.workshop.start_errors:
            raise self.workshop.start_errors.pop(0)
        if self.device == self.workshop.broken_device:
            raise GONE
        size = self.workshop.max_batch_size
        return WorkerInfo(self.device, self.workshop.devices, size, 800, 1333, {"load": 0.1})

    def send(self, frame: Frame) -> None:
        if self.send_error is not None:
            raise self.send_error
        if frame.kind is Kind.CANCEL:
            names = {number: data for data, number in self.numbers.items()}
            self.cancelled.append(names[frame.job])
            return
        self.received.append(frame.payload)
        self.numbers[frame.payload] = frame.job
        if frame.payload == b"killer":
            self.end()
        elif self.workshop.busy:
            self.begin(frame.payload)
            self.answer(frame.payload)

    async def receive(self) -> Frame:
        match await self.frames.get():
            case Frame() as frame:
                return frame
            case Exception() as error:
                raise error

    def unread_bytes(self) -> int:
        return self.unread

    def kill(self) -> None:
        self.killed = True
        self.end()

    async def stop(self) -> int | None:
        await self.workshop.may_stop.wait()
        self.stopped = True
        if self.workshop.stop_errors:
            raise self.workshop.stop_errors.pop(0)
        return -9

    def begin(self, *images: bytes) -> None:
        """These are on the device now."""
        numbers = [self.numbers[data] for data in images]
        self.frames.put_nowait(Frame(Kind.STARTED, payload=pack_jobs(numbers)))

    def answer(self, *images: bytes) -> None:
        kinds = {b"bad": Kind.BAD_IMAGE, b"fail": Kind.FAILED, b"confuse": Kind.READY}
        for data in images:
            kind = kinds.get(data, Kind.RESULT)
            self.frames.put_nowait(Frame(kind, self.numbers[data], data.upper()))

    def end(self) -> None:
        self.frames.put_nowait(GONE)


@asynccontextmanager
async def running(workshop: Workshop, **settings: Any) -> AsyncIterator[LocalDispatcher]:
    dispatcher = LocalDispatcher(Settings(**settings), workshop.metrics, workshop.make)
    await dispatcher.start()
    try:
        if workshop.may_start.is_set() and not workshop.start_errors:
            await until(lambda: dispatcher.health().unready is None)
        yield dispatcher
    finally:
        workshop.may_stop.set()
        await dispatcher.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """Let everything happen that can happen without time passing."""
    for _ in range(count):
        await asyncio.sleep(0)


def submit(
    dispatcher: LocalDispatcher, *data: bytes, size: tuple[int, int] = (640, 480)
) -> list[asyncio.Future[bytes]]:
    return dispatcher.submit([EncodedImage(one, *size) for one in data])


async def results_of(answers: list[asyncio.Future[bytes]]) -> list[bytes | BaseException]:
    async with asyncio.timeout(5):
        return await asyncio.gather(*answers, return_exceptions=True)


# Starting and stopping


async def test_starting_does_not_wait_for_the_model_and_images_are_refused_until_it_is_there() -> (
    None
):
    workshop = Workshop()
    workshop.may_start.clear()
    async with running(workshop) as dispatcher:
        assert dispatcher.health() == Health(None, LOADING, LOADING, LOADING)
        with pytest.raises(UnavailableError, match="still loading"):
            submit(dispatcher, b"a")

        workshop.may_start.set()
        await until(lambda: dispatcher.health() == Health())

        assert await results_of(submit(dispatcher, b"a")) == [b"A"]
        assert workshop.counted("ready") == 1


async def test_stopping_answers_those_who_wait_and_leaves_no_worker_and_no_task() -> None:
    workshop = Workshop(busy=False)
    before = asyncio.all_tasks()
    async with running(workshop, devices=("cpu", "cpu")) as dispatcher:
        answers = submit(dispatcher, *(b"%d" % number for number in range(12)))
        await until(lambda: len(workshop.scored) == 8)
        workshop.workers[0].begin(*workshop.workers[0].received)

    results = await results_of(answers)
    assert [str(result) for result in results] == [STOPPING] * 12
    assert all(isinstance(result, UnavailableError) for result in results)
    assert all(worker.stopped for worker in workshop.workers)
    assert asyncio.all_tasks() == before
    assert dispatcher._queue.all() == []
    assert (dispatcher._admission._images, dispatcher._admission._bytes) == (0, 0)
    assert workshop.counted("ready") == 0


async def test_stopping_while_the_model_still_loads_stops_the_worker() -> None:
    workshop = Workshop()
    workshop.may_start.clear()

    async with running(workshop):
        await until(lambda: len(workshop.workers) == 1)

    assert workshop.workers[0].stopped


async def test_from_the_moment_it_stops_images_are_refused_and_stopping_twice_is_stopping() -> None:
    workshop = Workshop(busy=False)
    workshop.may_stop.clear()
    async with running(workshop) as dispatcher:
        answers = submit(dispatcher, b"a")
        stopping = asyncio.create_task(dispatcher.stop())
        await turns()
        again = asyncio.create_task(dispatcher.stop())
        await turns()

        assert [type(one) for one in await results_of(answers)] == [UnavailableError]
        assert dispatcher.health() == Health(unready=STOPPING, refusing=STOPPING)
        with pytest.raises(UnavailableError, match="shutting down"):
            submit(dispatcher, b"b")
        assert not stopping.done()
        assert not again.done()

        workshop.may_stop.set()
        await stopping
        await again
    assert workshop.workers[0].stopped


async def test_while_draining_images_are_still_taken_but_no_new_clients_should_come() -> None:
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        dispatcher.drain()

        assert dispatcher.health() == Health(unready=STOPPING)
        assert workshop.counted("ready") == 0
        assert await results_of(submit(dispatcher, b"a")) == [b"A"]


# What waits


async def test_each_image_has_its_own_answer_and_one_that_fails_fails_alone() -> None:
    async with running(Workshop()) as dispatcher:
        results = await results_of(submit(dispatcher, b"a", b"bad", b"fail", b"c"))

    assert [results[0], results[3]] == [b"A", b"C"]
    assert isinstance(results[1], BadImageError)
    assert str(results[1]) == "BAD"
    assert isinstance(results[2], ScoringError)


async def test_no_images_need_no_answers() -> None:
    async with running(Workshop()) as dispatcher:
        assert dispatcher.submit([]) == []


async def test_a_request_for_which_too_many_images_wait_is_refused_as_a_whole() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop, max_queue_images=3) as dispatcher:
        answers = submit(dispatcher, b"a", b"b")
        with pytest.raises(QueueFullError):
            submit(dispatcher, b"c", b"d")
        answers += submit(dispatcher, b"e")
        await until(lambda: len(workshop.scored) == 3)

        workshop.workers[0].answer(b"a", b"b", b"e")

        assert await results_of(answers) == [b"A", b"B", b"E"]
        submit(dispatcher, b"f", b"g", b"h")


async def test_a_request_for_which_too_many_bytes_wait_is_refused_as_a_whole() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop, max_queue_bytes=10) as dispatcher:
        answers = submit(dispatcher, b"12345678")
        with pytest.raises(QueueFullError):
            submit(dispatcher, b"1", b"23")
        answers += submit(dispatcher, b"12")
        assert workshop.counted("queue_bytes") == 10
        await until(lambda: len(workshop.scored) == 2)

        workshop.workers[0].answer(*workshop.scored)
        await results_of(answers)
        await turns()

        assert workshop.counted("queue_bytes") == 0
        submit(dispatcher, b"1234567890")


async def test_an_image_that_cannot_be_taken_leaves_none_of_its_request_behind() -> None:
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        with pytest.raises(ZeroDivisionError):
            dispatcher.submit([EncodedImage(b"a", 1, 1), EncodedImage(b"b", 0, 0)])
        await turns()

        assert workshop.scored == []
        assert dispatcher._admission._images == 0


@pytest.mark.parametrize(("pace", "seconds"), [(None, 1), (0.001, 1), (1.6, 4), (100.0, 60)])
async def test_who_is_refused_is_told_how_long_those_who_wait_will_take(
    pace: float | None, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Workshop(busy=False), max_queue_images=2) as dispatcher:
        monkeypatch.setattr(dispatcher._admission._pace, "seconds_per_image", lambda: pace)
        submit(dispatcher, b"a", b"b")

        with pytest.raises(QueueFullError) as refused:
            submit(dispatcher, b"c")

        assert refused.value.retry_after_s == seconds


async def test_an_image_whose_client_left_is_not_scored_and_gives_its_room_back() -> None:
    workshop = Workshop(busy=False)
    workshop.max_batch_size = 1
    async with running(workshop, max_queue_images=2) as dispatcher:
        first, leaver = submit(dispatcher, b"a", b"leaver")
        await until(lambda: workshop.scored == [b"a"])

        leaver.cancel()
        await turns()
        (last,) = submit(dispatcher, b"b")
        workshop.busy = True
        workshop.workers[0].answer(b"a")

        assert await results_of([first, last]) == [b"A", b"B"]
        assert workshop.scored == [b"a", b"b"]
        assert workshop.counted("cancelled_total", where="queue") == 1


async def test_an_image_whose_client_leaves_at_the_moment_of_its_turn_is_not_sent() -> None:
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        (leaver,) = submit(dispatcher, b"leaver")
        leaver.cancel()
        await turns()

        assert workshop.scored == []
        assert workshop.counted("cancelled_total", where="queue") == 1


async def test_an_image_whose_client_left_before_its_batch_is_cancelled_at_the_worker() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        leaver, other = submit(dispatcher, b"leaver", b"b")
        await until(lambda: len(workshop.scored) == 2)
        (worker,) = workshop.workers

        leaver.cancel()
        await turns()
        worker.begin(b"leaver", b"b")  # the two frames crossed
        worker.answer(b"leaver", b"b")

        assert worker.cancelled == [b"leaver"]
        assert await other == b"B"
        assert workshop.counted("cancelled_total", where="worker") == 1


async def test_a_client_that_leaves_while_its_image_is_on_the_device_disturbs_nobody() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        leaver, other = submit(dispatcher, b"leaver", b"b")
        await until(lambda: len(workshop.scored) == 2)
        (worker,) = workshop.workers
        worker.begin(b"leaver", b"b")
        await turns()

        leaver.cancel()
        await turns()
        worker.answer(b"leaver", b"b")

        assert await other == b"B"
        assert worker.cancelled == []
        assert dispatcher._slots[0].load() == 0


async def test_nothing_of_an_image_is_kept_once_it_is_answered_or_its_client_has_left() -> None:
    workshop = Workshop(busy=False)
    data = [bytes([letter]) * 1000 for letter in b"abc"]
    gc.disable()  # there is no cycle either
    try:
        async with running(workshop) as dispatcher:
            before = [sys.getrefcount(one) for one in data]
            answers = submit(dispatcher, *data)
            await until(lambda: len(workshop.scored) == 3)
            (worker,) = workshop.workers
            worker.begin(data[0])
            await turns()
            worker.answer(data[0])
            answers[1].cancel()
            answers[2].cancel()
            await turns()
            del answers
            worker.received.clear()
            worker.numbers.clear()
            worker.cancelled.clear()

            assert [sys.getrefcount(one) for one in data] == before
    finally:
        gc.enable()


async def test_an_image_past_its_deadline_gets_azures_answer_and_is_not_scored_later() -> None:
    workshop = Workshop(busy=False)
    workshop.max_batch_size = 1
    async with running(workshop, scoring_timeout_ms=30) as dispatcher:
        answers = submit(dispatcher, b"a", b"b")

        results = await results_of(answers)

        assert [str(result) for result in results] == ["Scoring timeout after 30 ms"] * 2
        assert all(isinstance(result, ScoringTimeoutError) for result in results)
        await turns()
        in_time = list(workshop.scored)  # on a slow machine the second may have had its turn
        assert in_time in ([b"a"], [b"a", b"b"])
        workshop.busy = True
        assert await results_of(submit(dispatcher, b"c")) == [b"C"]
        assert workshop.scored == [*in_time, b"c"]
        assert workshop.workers[0].cancelled == in_time
        assert workshop.counted("cancelled_total", where="worker") == 0


# Who takes it


async def test_images_that_come_together_go_together_as_many_as_the_worker_takes() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        submit(dispatcher, b"1", b"2", b"3")
        submit(dispatcher, b"4", b"5")
        await turns()

        assert workshop.scored == [b"1", b"4", b"2", b"5"]


async def test_while_the_device_is_busy_its_next_batch_is_sent_and_grows() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        submit(dispatcher, b"1", b"2")
        await turns()
        workshop.workers[0].begin(b"1", b"2")
        submit(dispatcher, b"3")
        await turns()
        assert workshop.scored == [b"1", b"2", b"3"]

        submit(dispatcher, b"4", b"5", b"6", b"7")
        await turns()

        assert workshop.scored == [b"1", b"2", b"3", b"4", b"5", b"6"]


async def test_the_next_batch_has_one_canvas_that_of_the_oldest_image() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        submit(dispatcher, b"wide", size=(640, 480))
        submit(dispatcher, b"tall", size=(480, 640))
        submit(dispatcher, b"wide too", size=(640, 480))
        await turns()
        assert workshop.scored == [b"wide", b"wide too"]
        submit(dispatcher, b"square", size=(500, 500))

        workshop.workers[0].begin(b"wide", b"wide too")
        await turns()

        assert workshop.scored == [b"wide", b"wide too", b"tall"]


async def test_a_canvas_that_keeps_coming_does_not_keep_another_waiting_for_ever() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        submit(dispatcher, b"0", b"1", b"2", b"3")
        await turns()
        submit(dispatcher, b"tall", size=(480, 640))
        (worker,) = workshop.workers

        for number in range(0, 12, 2):  # decoded only in part when the device is free
            if b"tall" in worker.received:
                break
            submit(dispatcher, b"%d" % (number + 4), b"%d" % (number + 5))
            await turns()
            worker.begin(b"%d" % number, b"%d" % (number + 1))
            await turns()

        assert b"tall" in worker.received


async def test_a_request_of_a_hundred_images_does_not_keep_others_waiting_until_it_is_done() -> (
    None
):
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        submit(dispatcher, *(b"%d" % number for number in range(100)))
        await turns()
        (worker,) = workshop.workers
        submit(dispatcher, b"late")

        worker.begin(*worker.received)
        await turns()

        assert b"late" in worker.received[4:8]


async def test_an_image_goes_to_the_least_loaded_worker() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop, devices=("cuda:0", "cuda:1")) as dispatcher:
        submit(dispatcher, b"1", b"2", b"3", b"4")
        await turns()
        one, two = workshop.workers
        assert [len(one.received), len(two.received)] == [2, 2]
        two.begin(*two.received)
        two.answer(*two.received)
        await turns()

        submit(dispatcher, b"5", b"6")
        await turns()

        assert [len(one.received), len(two.received)] == [2, 4]


async def test_auto_is_one_worker_for_each_device_the_first_one_finds() -> None:
    workshop = Workshop(devices=("cuda:0", "cuda:1", "cuda:2"))
    async with running(workshop) as dispatcher:
        workshop.workers[0].end()
        await until(lambda: len(workshop.workers) == 4)
        await until(lambda: dispatcher.health() == Health())

        devices = [worker.device for worker in workshop.workers]
        assert devices == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]


async def test_no_clients_are_asked_for_until_all_are_ready_but_who_comes_is_served() -> None:
    workshop = Workshop(devices=("cuda:0", "cuda:1"))
    workshop.may_start.clear()
    async with running(workshop) as dispatcher:
        await until(lambda: len(workshop.workers) == 1)
        workshop.may_start.set()
        await until(lambda: len(workshop.workers) == 1 and dispatcher._slots[0].ever_ready)
        workshop.may_start.clear()

        assert dispatcher.health() == Health(unready=LOADING)
        assert await results_of(submit(dispatcher, b"a")) == [b"A"]


async def test_what_happens_to_images_is_measured() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        answers = submit(dispatcher, b"a")
        assert workshop.counted("queue_depth", bucket="800x1088") == 1
        await turns()
        assert workshop.counted("queue_depth", bucket="800x1088") == 0
        (worker,) = workshop.workers
        report = BatchReport([1], 0.1, {"infer": [0.2], "decode": [0.1]}, [7], 1, 2, 1000)

        worker.begin(b"a")
        worker.answer(b"a")
        worker.frames.put_nowait(Frame(Kind.REPORT, payload=report.to_json()))
        await results_of(answers)
        await turns()

        stages = [
            workshop.counted("stage_duration_seconds_count", stage=stage)
            for stage in ("queue", "infer", "decode")
        ]
        assert stages == [1, 1, 1]
        assert workshop.counted("batch_size_sum") == 1
        assert workshop.counted("objects_sum") == 7
        assert workshop.counted("oom_total") == 1
        assert workshop.counted("batch_retries_total") == 2
        assert workshop.counted("device_memory_bytes", device="cpu") == 1000


# Workers that end


async def test_a_worker_that_ends_while_idle_is_replaced_at_once() -> None:
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        workshop.workers[0].end()
        await until(lambda: len(workshop.workers) == 2)

        assert workshop.workers[0].stopped
        assert await results_of(submit(dispatcher, b"a")) == [b"A"]
        assert workshop.counted("worker_restarts_total", device="cpu") == 1


async def test_the_first_failure_costs_no_delay_and_the_next_ever_more_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delays: list[float] = []

    async def sleep(seconds: float) -> None:
        delays.append(seconds)

    workshop = Workshop()
    dispatcher = LocalDispatcher(Settings(devices=("cpu", "cpu")), make_worker=workshop.make)
    monkeypatch.setattr(dispatching, "MAX_BACKOFF_S", 30.0)
    monkeypatch.setattr(dispatching.asyncio, "sleep", sleep)
    for _ in range(1100):
        await dispatcher._back_off(dispatcher._slots[0])

    assert delays[:4] == [0.5, 1, 2, 4]
    assert delays[-1] == 30


async def test_a_worker_that_ends_after_a_long_life_is_not_one_in_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatching, "LONG_LIFE_S", -1.0)
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        for count in range(1, 12):
            workshop.workers[-1].end()
            await until(lambda count=count: len(workshop.workers) == count + 1)  # type: ignore[misc]
            await until(lambda: dispatcher._slots[0].worker is not None)

        assert dispatcher.failure is None
        assert dispatcher._slots[0].failures == 1


async def test_when_a_busy_worker_ends_all_its_images_are_scored_by_the_next_each_alone() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        answers = submit(dispatcher, b"a", b"b", b"c")
        await until(lambda: len(workshop.scored) == 3)
        workshop.workers[0].begin(b"a", b"b")
        await turns()

        workshop.workers[0].end()
        await until(lambda: len(workshop.workers) == 2 and len(workshop.workers[1].received) == 1)
        await turns()
        assert workshop.workers[1].received == [b"a"]
        workshop.busy = True
        workshop.workers[1].answer(b"a")

        assert await results_of(answers) == [b"A", b"B", b"C"]
        assert dispatcher.health() == Health()


async def test_the_images_of_a_lost_worker_go_elsewhere_at_once_where_there_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatching, "_TICK_S", 60.0)
    workshop = Workshop(busy=False)
    async with running(workshop, devices=("cuda:0", "cuda:1")) as dispatcher:
        answers = submit(dispatcher, b"a")
        await until(lambda: workshop.workers[0].received == [b"a"])
        workshop.may_stop.clear()  # it takes its time to end
        workshop.busy = True

        workshop.workers[0].end()

        assert await results_of(answers) == [b"A"]
        assert workshop.workers[1].received == [b"a"]


async def test_an_image_that_ends_two_workers_is_the_one_that_fails() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        answers = submit(dispatcher, b"a", b"killer", b"b")
        await until(lambda: len(workshop.scored) == 3)
        workshop.busy = True

        results = await results_of(answers)

        assert [type(result) for result in results] == [bytes, ScoringError, bytes]
        assert dispatcher.health() == Health()


async def test_images_that_end_workers_do_not_end_the_service() -> None:
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        for _ in range(dispatching.MAX_CONVICTED):
            (killer,) = submit(dispatcher, b"killer")
            with pytest.raises(ScoringError):
                await killer

        (other,) = submit(dispatcher, b"a")

        assert await other == b"A"
        assert dispatcher.failure is None


async def test_workers_that_end_at_every_image_are_to_blame_in_the_end() -> None:
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        for _ in range(2 * dispatching.MAX_CONVICTED):
            with contextlib.suppress(UnavailableError):
                await results_of(submit(dispatcher, b"killer"))

        assert dispatcher.failure is not None


async def test_an_image_whose_client_left_is_not_tried_again() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        (leaver,) = submit(dispatcher, b"a")
        await until(lambda: workshop.scored == [b"a"])
        workshop.workers[0].begin(b"a")
        await turns()
        leaver.cancel()

        workshop.workers[0].end()
        await until(lambda: len(workshop.workers) == 2)
        await turns()

        assert workshop.scored == [b"a"]


async def test_a_worker_that_hangs_is_replaced_and_its_images_are_scored() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop, worker_timeout_s=0.03) as dispatcher:
        answers = submit(dispatcher, b"a")
        await until(lambda: workshop.scored == [b"a"])
        workshop.busy = True

        assert await results_of(answers) == [b"A"]
        assert workshop.workers[0].killed


async def test_a_worker_that_hangs_is_found_out_even_if_its_clients_never_wait_that_long() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop, worker_timeout_s=0.1, scoring_timeout_ms=30) as dispatcher:
        async with asyncio.timeout(5):
            while not workshop.workers[0].killed:
                await results_of(submit(dispatcher, b"a"))
                await asyncio.sleep(0.015)  # a tick finds nothing to wait for


async def test_an_idle_worker_and_one_that_gives_signs_do_not_hang() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop, worker_timeout_s=0.05) as dispatcher:
        await asyncio.sleep(0.08)
        submit(dispatcher, b"a")
        await until(lambda: workshop.scored == [b"a"])
        for _ in range(8):
            await asyncio.sleep(0.01)
            workshop.workers[0].begin()

        assert not workshop.workers[0].killed


async def test_workers_are_not_blamed_for_the_time_the_process_was_suspended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workshop = Workshop(busy=False)
    async with running(workshop, scoring_timeout_ms=10_000_000) as dispatcher:
        (answer,) = submit(dispatcher, b"a")
        await until(lambda: workshop.scored == [b"a"])
        loop = asyncio.get_running_loop()
        clock = loop.time

        monkeypatch.setattr(loop, "time", lambda: clock() + 3600)
        assert dispatcher.health() == Health(STUCK, STUCK, STUCK, None)
        await until(lambda: dispatcher.health() == Health())
        workshop.workers[0].answer(b"a")

        assert await answer == b"A"
        assert not workshop.workers[0].killed


async def test_a_worker_that_never_gets_ready_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "START_TIMEOUT_S", 0.02)
    workshop = Workshop()
    workshop.may_start.clear()
    async with running(workshop) as dispatcher:
        await until(lambda: len(workshop.workers) == 2)
        workshop.may_start.set()
        await until(lambda: dispatcher.health() == Health())

        assert workshop.workers[0].stopped


async def test_a_frame_that_makes_no_sense_loses_the_worker_but_no_image() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        answers = submit(dispatcher, b"a")
        await until(lambda: workshop.scored == [b"a"])
        workshop.busy = True

        workshop.workers[0].frames.put_nowait(Frame(Kind.READY, workshop.workers[0].numbers[b"a"]))

        assert await results_of(answers) == [b"A"]


@pytest.mark.parametrize(
    "frame",
    [Frame(Kind.REPORT, payload=b"?"), Frame(Kind.STARTED, payload=b"?????")],
    ids=lambda frame: frame.kind.name,
)
async def test_a_frame_that_cannot_be_read_loses_the_worker_but_no_image(frame: Frame) -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        answers = submit(dispatcher, b"a")
        await until(lambda: workshop.scored == [b"a"])
        workshop.busy = True

        workshop.workers[0].frames.put_nowait(frame)

        assert await results_of(answers) == [b"A"]


async def test_errors_of_every_method_of_a_worker_cost_that_worker_only() -> None:
    workshop = Workshop(busy=False)
    async with running(workshop) as dispatcher:
        answers = submit(dispatcher, b"a")
        await until(lambda: workshop.scored == [b"a"])
        workshop.stop_errors = [RuntimeError("stop")]
        workshop.start_errors = [RuntimeError("start")]
        workshop.busy = True

        workshop.workers[0].frames.put_nowait(RuntimeError("receive"))
        assert await results_of(answers) == [b"A"]
        workshop.make_errors = [RuntimeError("make")]
        workshop.workers[-1].send_error = RuntimeError("send")
        answers = submit(dispatcher, b"b")

        assert await results_of(answers) == [b"B"]
        assert dispatcher.health() == Health()


async def test_an_error_at_each_tick_ends_the_heartbeat_and_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatching, "_STALE_HEARTBEAT_S", 0.05)
    async with running(Workshop()) as dispatcher:
        fails = True

        def fail() -> None:
            if fails:
                raise RuntimeError("a bug")

        monkeypatch.setattr(dispatcher, "_replace_hanging", fail)
        await until(lambda: dispatcher.health().dead == STUCK)
        fails = False

        await until(lambda: dispatcher.health() == Health())


async def test_without_any_worker_for_long_new_clients_should_go_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatching, "MAX_DESERTED_S", 0.02)
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        workshop.may_start.clear()

        workshop.workers[0].end()
        await until(lambda: dispatcher.health() == Health(unready=FAILING))
        assert workshop.counted("workers_ready") == 0
        workshop.may_start.set()

        await until(lambda: dispatcher.health() == Health())
        assert workshop.counted("workers_ready") == workshop.counted("workers") == 1


async def test_a_task_that_ended_can_only_be_helped_by_a_restart() -> None:
    async with running(Workshop()) as dispatcher:
        dispatcher._tasks[0].cancel()
        await until(dispatcher._tasks[0].done)

        assert dispatcher.health().dead == STUCK


# Workers that keep ending


async def test_weights_that_cannot_be_loaded_end_it_with_their_one_line_and_no_retry() -> None:
    workshop = Workshop()
    workshop.start_errors = [WorkerStartError("w.safetensors: damaged")]
    async with running(workshop) as dispatcher:
        await until(lambda: dispatcher.failure is not None)
        await turns()

        assert dispatcher.failure == "w.safetensors: damaged"
        assert len(workshop.workers) == 1
        assert workshop.workers[0].stopped
        assert dispatcher.health().dead is None
        with pytest.raises(UnavailableError) as refused:
            submit(dispatcher, b"a")
        assert "safetensors" not in str(refused.value)


@pytest.mark.parametrize("limits", [{"max_queue_images": 2}, {"max_queue_bytes": 2}])
async def test_a_request_that_could_never_wait_is_told_so_instead_of_to_come_back(
    limits: dict[str, int],
) -> None:
    async with running(Workshop(), **limits) as dispatcher:
        with pytest.raises(BadRequestError, match="3 images of 3 bytes, more than the limits"):
            submit(dispatcher, b"a", b"b", b"c")

        (answer,) = submit(dispatcher, b"d")

        assert await answer == b"D"


async def test_a_device_that_is_gone_is_tried_again_while_another_serves() -> None:
    workshop = Workshop()
    async with running(workshop, devices=("cuda:0", "cuda:1")) as dispatcher:
        await until(lambda: dispatcher.health() == Health())
        workshop.start_errors = [WorkerStartError("there is no device cuda:1 on this machine")] * 9

        workshop.workers[1].end()
        await until(lambda: not workshop.start_errors)
        (answer,) = submit(dispatcher, b"a")
        assert await answer == b"A"

        await until(lambda: workshop.counted("workers_ready") == 2)
        assert dispatcher.failure is None


async def test_when_all_devices_are_gone_it_ends() -> None:
    workshop = Workshop()
    async with running(workshop, devices=("cuda:0", "cuda:1")) as dispatcher:
        await until(lambda: dispatcher.health() == Health())
        workshop.start_errors = [WorkerStartError("no driver")] * 99

        for worker in workshop.workers[:2]:
            worker.end()
        await until(lambda: dispatcher.failure is not None)

        assert dispatcher.failure == "no driver"


async def test_three_starts_that_fail_in_a_row_end_it_but_two_do_not() -> None:
    workshop = Workshop()
    workshop.start_errors = [GONE] * 2
    async with running(workshop) as dispatcher:
        await until(lambda: dispatcher.health() == Health())
        assert await results_of(submit(dispatcher, b"a")) == [b"A"]

    workshop = Workshop()
    workshop.start_errors = [GONE] * 5
    async with running(workshop) as dispatcher:
        await until(lambda: dispatcher.failure is not None)
        assert dispatcher.failure == "the worker ended 3 times in a row (exit code -9)"
        assert len(workshop.workers) == 3


async def test_when_the_workers_keep_failing_those_who_wait_are_refused_until_one_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatching, "MAX_BACKOFF_S", 0.05)
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        workshop.start_errors = [GONE] * 2
        workshop.workers[0].end()
        await until(lambda: dispatcher._slots[0].worker is None)
        answers = submit(dispatcher, b"a")

        (result,) = await results_of(answers)
        assert isinstance(result, UnavailableError)
        assert dispatcher.health() == Health(unready=FAILING, refusing=FAILING)
        assert workshop.counted("ready") == 0

        await until(lambda: dispatcher.health() == Health())
        assert workshop.counted("ready") == 1
        assert await results_of(submit(dispatcher, b"b")) == [b"B"]
        assert dispatcher._slots[0].failures == 0


async def test_eight_failures_in_a_row_end_even_what_was_ready_once() -> None:
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        workshop.start_errors = [GONE] * 20
        workshop.workers[0].end()
        await until(lambda: dispatcher.failure is not None)

        assert len(workshop.workers) == 8
        assert dispatcher.health().refusing == dispatching.BROKEN


async def test_a_device_that_cannot_be_used_does_not_end_or_hide_the_others() -> None:
    workshop = Workshop()
    workshop.broken_device = "cuda:0"
    async with running(workshop, devices=("cuda:0", "cuda:1")) as dispatcher:
        await until(lambda: len(workshop.workers) > 12)

        assert dispatcher.failure is None
        assert dispatcher.health() == Health()
        assert await results_of(submit(dispatcher, b"a")) == [b"A"]


async def test_once_one_device_was_ready_a_failing_other_does_not_shorten_its_patience() -> None:
    workshop = Workshop()
    dispatcher = LocalDispatcher(Settings(devices=("cpu", "cpu")), make_worker=workshop.make)
    once_ready, never_ready = dispatcher._slots
    once_ready.ever_ready = True
    once_ready.failures, never_ready.failures = 3, 2

    await dispatcher._back_off(never_ready)

    assert dispatcher.failure is None
