import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from service.dispatch.dispatcher import LocalDispatcher
from service.dispatch.workers import WorkerLostError, WorkerStartError
from service.errors import (
    BadImageError,
    QueueFullError,
    ScoringError,
    ScoringTimeoutError,
    UnavailableError,
)
from service.protocol import EncodedImage
from service.settings import Settings

pytestmark = pytest.mark.anyio


def image(data: bytes) -> EncodedImage:
    return EncodedImage(data, 1, 1)


class Workshop:
    """Makes fake workers and tells them what to do, all of them alike."""

    def __init__(self) -> None:
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.may_score = asyncio.Event()
        self.may_score.set()
        self.may_stop = asyncio.Event()
        self.may_stop.set()
        self.start_errors: list[Exception] = []
        self.workers: list[FakeWorker] = []
        self.scored: list[bytes] = []
        self.scoring = 0

    def make(self, settings: Settings) -> "FakeWorker":
        self.workers.append(FakeWorker(self))
        return self.workers[-1]


class FakeWorker:
    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.ended = asyncio.Event()
        self.stopped = False

    async def start(self) -> None:
        await self.workshop.may_start.wait()
        if self.workshop.start_errors:
            raise self.workshop.start_errors.pop(0)

    async def score(self, image: EncodedImage) -> bytes:
        self.workshop.scored.append(image.data)
        self.workshop.scoring += 1
        assert self.workshop.scoring == 1, "one image at a time"
        try:
            await self.workshop.may_score.wait()
        finally:
            self.workshop.scoring -= 1
        if image.data == b"bad":
            raise BadImageError("it is bad")
        if image.data == b"bug":
            raise RuntimeError("a bug")
        if image.data == b"killer":
            self.ended.set()
            raise WorkerLostError("killed")
        return image.data.upper()

    async def wait(self) -> int:
        await self.ended.wait()
        return -9

    async def stop(self) -> None:
        await self.workshop.may_stop.wait()
        self.stopped = True


@asynccontextmanager
async def running(workshop: Workshop, **settings: int) -> AsyncIterator[LocalDispatcher]:
    dispatcher = LocalDispatcher(Settings(**settings), workshop.make)
    await dispatcher.start()
    try:
        if workshop.may_start.is_set() and not workshop.start_errors:
            await until(lambda: dispatcher.unavailable() is None)
        yield dispatcher
    finally:
        await dispatcher.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def begin(dispatcher: LocalDispatcher, *data: bytes) -> list[asyncio.Task[bytes]]:
    return [asyncio.create_task(dispatcher.score(image(one))) for one in data]


async def test_starting_does_not_wait_for_the_model_and_images_are_refused_until_it_is_there() -> (
    None
):
    workshop = Workshop()
    workshop.may_start.clear()
    async with running(workshop) as dispatcher:
        with pytest.raises(UnavailableError, match="still loading"):
            await dispatcher.score(image(b"a"))

        workshop.may_start.set()
        await until(lambda: dispatcher.unavailable() is None)

        assert await dispatcher.score(image(b"a")) == b"A"


async def test_images_are_scored_one_at_a_time_oldest_first_each_with_its_own_answer() -> None:
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        answers = await asyncio.gather(*begin(dispatcher, b"a", b"b", b"c"))

    assert answers == [b"A", b"B", b"C"]
    assert workshop.scored == [b"a", b"b", b"c"]


async def test_an_image_that_fails_fails_alone() -> None:
    async with running(Workshop()) as dispatcher:
        results = await asyncio.gather(
            *begin(dispatcher, b"a", b"bad", b"c"), return_exceptions=True
        )

    assert results[0] == b"A"
    assert isinstance(results[1], BadImageError)
    assert results[2] == b"C"


async def test_a_queue_full_of_images_refuses_the_next_at_once() -> None:
    workshop = Workshop()
    workshop.may_score.clear()
    async with running(workshop, max_queue_images=2) as dispatcher:
        tasks = begin(dispatcher, b"a", b"b")
        await until(lambda: workshop.scored == [b"a"])

        with pytest.raises(QueueFullError):
            await dispatcher.score(image(b"c"))

        workshop.may_score.set()
        assert await asyncio.gather(*tasks) == [b"A", b"B"]
        assert await dispatcher.score(image(b"d")) == b"D"


async def test_a_queue_full_of_bytes_refuses_the_next_at_once() -> None:
    workshop = Workshop()
    workshop.may_score.clear()
    async with running(workshop, max_queue_bytes=10) as dispatcher:
        tasks = begin(dispatcher, b"12345678")
        await until(lambda: len(workshop.scored) == 1)

        with pytest.raises(QueueFullError):
            await dispatcher.score(image(b"123"))
        tasks += begin(dispatcher, b"12")

        workshop.may_score.set()
        assert await asyncio.gather(*tasks) == [b"12345678", b"12"]
        assert await dispatcher.score(image(b"123456789")) == b"123456789"


async def test_an_image_whose_caller_left_is_not_scored_and_gives_its_room_back() -> None:
    workshop = Workshop()
    workshop.may_score.clear()
    async with running(workshop, max_queue_images=2) as dispatcher:
        first, leaver = begin(dispatcher, b"a", b"leaver")
        await until(lambda: workshop.scored == [b"a"])

        leaver.cancel()
        await asyncio.wait({leaver})
        (last,) = begin(dispatcher, b"b")
        workshop.may_score.set()

        assert await asyncio.gather(first, last) == [b"A", b"B"]
        assert workshop.scored == [b"a", b"b"]


async def test_an_image_whose_caller_leaves_at_the_moment_of_its_turn_is_not_scored() -> None:
    workshop = Workshop()
    workshop.may_score.clear()
    async with running(workshop) as dispatcher:
        first, leaver = begin(dispatcher, b"a", b"leaver")
        await until(lambda: workshop.scored == [b"a"])

        workshop.may_score.set()
        leaver.cancel()

        assert await first == b"A"
        assert await dispatcher.score(image(b"b")) == b"B"
        assert workshop.scored == [b"a", b"b"]


async def test_the_bytes_of_an_image_whose_caller_left_are_let_go_at_once() -> None:
    workshop = Workshop()
    workshop.may_score.clear()
    data = bytes(1000)
    references = sys.getrefcount(data)
    async with running(workshop) as dispatcher:
        first, leaver = begin(dispatcher, b"a", data)
        await until(lambda: workshop.scored == [b"a"])

        leaver.cancel()
        await asyncio.wait({leaver})
        del leaver

        assert sys.getrefcount(data) == references
        workshop.may_score.set()
        assert await first == b"A"


async def test_a_caller_that_leaves_while_its_image_is_scored_disturbs_nobody() -> None:
    workshop = Workshop()
    workshop.may_score.clear()
    async with running(workshop) as dispatcher:
        leaver, other = begin(dispatcher, b"leaver", b"b")
        await until(lambda: workshop.scored == [b"leaver"])

        leaver.cancel()
        await asyncio.wait({leaver})
        workshop.may_score.set()

        assert await other == b"B"
        assert len(workshop.workers) == 1


async def test_an_image_past_its_deadline_gets_azures_answer_and_is_not_scored_later() -> None:
    workshop = Workshop()
    workshop.may_score.clear()
    async with running(workshop, scoring_timeout_ms=30) as dispatcher:
        tasks = begin(dispatcher, b"a", b"b")

        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert [str(result) for result in results] == ["Scoring timeout after 30 ms"] * 2
        assert all(isinstance(result, ScoringTimeoutError) for result in results)
        workshop.may_score.set()
        assert await dispatcher.score(image(b"c")) == b"C"
        assert workshop.scored == [b"a", b"c"]


async def test_a_worker_that_ends_while_idle_is_replaced_before_anybody_asks() -> None:
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        workshop.workers[0].ended.set()
        await until(lambda: len(workshop.workers) == 2)

        assert workshop.workers[0].stopped
        assert await dispatcher.score(image(b"a")) == b"A"


async def test_when_a_busy_worker_ends_its_image_and_those_waiting_are_scored_by_the_next() -> None:
    workshop = Workshop()
    workshop.may_score.clear()
    async with running(workshop) as dispatcher:
        tasks = begin(dispatcher, b"a", b"b")
        await until(lambda: workshop.scored == [b"a"])

        workshop.workers[0].ended.set()
        await until(lambda: workshop.scored == [b"a", b"a"])
        workshop.may_score.set()

        assert await asyncio.gather(*tasks) == [b"A", b"B"]
        assert dispatcher.unavailable() is None
        assert len(workshop.workers) == 2


async def test_an_image_that_ends_two_workers_is_the_one_that_fails() -> None:
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        killer, other = begin(dispatcher, b"killer", b"b")

        with pytest.raises(ScoringError):
            await killer
        assert await other == b"B"
        assert workshop.scored == [b"killer", b"killer", b"b"]


async def test_weights_that_cannot_be_loaded_end_it_with_their_one_line_and_no_retry() -> None:
    workshop = Workshop()
    workshop.start_errors = [WorkerStartError("w.safetensors: damaged")]
    async with running(workshop) as dispatcher:
        await until(lambda: dispatcher.failure is not None)

        assert dispatcher.failure == "w.safetensors: damaged"
        assert len(workshop.workers) == 1
        assert workshop.workers[0].stopped
        with pytest.raises(UnavailableError) as refused:
            await dispatcher.score(image(b"a"))
        assert "safetensors" not in str(refused.value)


async def test_a_start_that_fails_once_is_tried_again() -> None:
    workshop = Workshop()
    workshop.start_errors = [WorkerLostError("gone")]
    async with running(workshop) as dispatcher:
        await until(lambda: dispatcher.unavailable() is None)

        assert await dispatcher.score(image(b"a")) == b"A"
        assert dispatcher.failure is None


async def test_three_starts_that_fail_in_a_row_end_it() -> None:
    workshop = Workshop()
    workshop.start_errors = [WorkerLostError("gone")] * 5
    async with running(workshop) as dispatcher:
        await until(lambda: dispatcher.failure is not None)

        assert "3 times in a row" in str(dispatcher.failure)
        assert len(workshop.workers) == 3


async def test_starts_that_fail_are_counted_anew_after_one_that_worked() -> None:
    workshop = Workshop()
    workshop.start_errors = [WorkerLostError("gone")] * 2
    async with running(workshop) as dispatcher:
        await until(lambda: dispatcher.unavailable() is None)
        workshop.start_errors = [WorkerLostError("gone")] * 2

        workshop.workers[-1].ended.set()
        await until(lambda: len(workshop.workers) == 6)

        assert await dispatcher.score(image(b"a")) == b"A"
        assert dispatcher.failure is None


async def test_those_who_wait_are_told_when_no_worker_can_be_had_any_more() -> None:
    workshop = Workshop()
    async with running(workshop) as dispatcher:
        workshop.may_start.clear()
        workshop.workers[0].ended.set()
        await until(lambda: len(workshop.workers) == 2)
        (waiting,) = begin(dispatcher, b"a")
        await asyncio.sleep(0)

        workshop.start_errors = [WorkerStartError("the weights are gone")]
        workshop.may_start.set()

        with pytest.raises(UnavailableError):
            await waiting


async def test_a_bug_in_here_is_no_silence() -> None:
    async with running(Workshop()) as dispatcher:
        waiting = begin(dispatcher, b"bug", b"b")

        results = await asyncio.gather(*waiting, return_exceptions=True)

        assert [type(result) for result in results] == [UnavailableError] * 2
        assert dispatcher.failure is not None


async def test_stopping_answers_those_who_wait_and_leaves_no_worker_and_no_task() -> None:
    workshop = Workshop()
    workshop.may_score.clear()
    before = asyncio.all_tasks()
    async with running(workshop) as dispatcher:
        tasks = begin(dispatcher, b"a", b"b")
        await until(lambda: workshop.scored == [b"a"])

    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["the service is shutting down"] * 2
    assert workshop.workers[0].stopped
    assert asyncio.all_tasks() == before


async def test_stopping_while_the_model_still_loads_stops_the_worker() -> None:
    workshop = Workshop()
    workshop.may_start.clear()

    async with running(workshop):
        await until(lambda: len(workshop.workers) == 1)

    assert workshop.workers[0].stopped


async def test_from_the_moment_it_stops_images_are_refused() -> None:
    workshop = Workshop()
    workshop.may_stop.clear()
    async with running(workshop) as dispatcher:
        stopping = asyncio.create_task(dispatcher.stop())
        await asyncio.sleep(0)

        with pytest.raises(UnavailableError, match="shutting down"):
            await dispatcher.score(image(b"a"))

        workshop.may_stop.set()
        await stopping


async def test_after_stopping_images_are_refused() -> None:
    async with running(Workshop()) as dispatcher:
        pass

    with pytest.raises(UnavailableError, match="shutting down"):
        await dispatcher.score(image(b"a"))
