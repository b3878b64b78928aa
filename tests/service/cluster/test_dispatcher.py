import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.cluster import dispatcher as module
from service.cluster.dispatcher import ClusterDispatcher, ReplicaLostError
from service.dispatch.dispatcher import FAILING, LOADING, STOPPING
from service.errors import (
    BadImageError,
    QueueFullError,
    ScoringError,
    ScoringTimeoutError,
    UnavailableError,
)
from service.metrics import Metrics
from service.protocol import EncodedImage
from service.settings import Settings

pytestmark = pytest.mark.anyio


class FakeReplicas:
    """Answer with the image's own bytes, once let go on; fail as they are told."""

    def __init__(self, running: int = 1) -> None:
        self.running = running
        self.uncountable = False
        self.errors: dict[bytes, list[Exception]] = {}  # by image, one for each time
        self.sent: list[bytes] = []
        self.gone: list[bytes] = []  # cancelled while they were with a replica
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def score(self, image: EncodedImage) -> bytes:
        self.sent.append(image.data)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.gone.append(image.data)
            raise
        if errors := self.errors.get(image.data):
            raise errors.pop(0)
        return image.data

    async def count(self) -> int:
        if self.uncountable:
            raise ConnectionError("nobody answers")
        return self.running


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(module, "_RESEND_DELAY_S", 0.001)


@asynccontextmanager
async def running(
    replicas: FakeReplicas, room: int = 2, **settings: Any
) -> AsyncIterator[ClusterDispatcher]:
    dispatcher = ClusterDispatcher(Settings(**settings), Metrics(), replicas, room=room)
    await dispatcher.start()
    try:
        if replicas.running:
            await until(lambda: dispatcher.health().refusing is None)
        yield dispatcher
    finally:
        await dispatcher.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def submit(dispatcher: ClusterDispatcher, *images: bytes) -> list[asyncio.Future[bytes]]:
    return dispatcher.submit([EncodedImage(data, 8, 8) for data in images])


async def test_each_image_gets_its_own_answer_as_soon_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 60)
    async with running(FakeReplicas()) as dispatcher, asyncio.timeout(5):
        assert await asyncio.gather(*submit(dispatcher, b"a", b"b", b"c")) == [b"a", b"b", b"c"]


async def test_no_more_is_sent_than_the_replicas_can_hold() -> None:
    replicas = FakeReplicas()
    replicas.go_on.clear()
    async with running(replicas) as dispatcher:
        submit(dispatcher, b"a", b"b", b"c", b"d", b"e")
        await until(lambda: len(replicas.sent) == 2)
        await asyncio.sleep(0.01)
        assert replicas.sent == [b"a", b"b"]

        replicas.running = 2

        await until(lambda: replicas.sent == [b"a", b"b", b"c", b"d"])


async def test_a_large_request_takes_turns_with_the_others() -> None:
    replicas = FakeReplicas()
    replicas.go_on.clear()
    async with running(replicas, room=1) as dispatcher:
        large = submit(dispatcher, b"1", b"2", b"3")
        small = submit(dispatcher, b"small")
        replicas.go_on.set()
        await asyncio.gather(*large, *small)

        assert replicas.sent == [b"1", b"small", b"2", b"3"]


async def test_images_of_a_replica_that_is_gone_are_sent_again() -> None:
    replicas = FakeReplicas()
    replicas.errors = {b"a": [ReplicaLostError("killed")] * 5}
    async with running(replicas) as dispatcher:
        assert await asyncio.gather(*submit(dispatcher, b"a", b"b")) == [b"a", b"b"]
        assert replicas.sent.count(b"a") == 6


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (BadImageError("the image is damaged"), BadImageError),
        (ScoringError(), ScoringError),
        (ZeroDivisionError(), ScoringError),
    ],
)
async def test_what_a_replica_says_of_an_image_is_about_that_image_alone(
    failure: Exception, told: type[Exception]
) -> None:
    replicas = FakeReplicas()
    replicas.errors = {b"bad": [failure]}
    async with running(replicas) as dispatcher:
        bad, good = await asyncio.gather(
            *submit(dispatcher, b"bad", b"good"), return_exceptions=True
        )

    assert type(bad) is told
    assert good == b"good"


@pytest.mark.parametrize("lost", [False, True])
async def test_who_waits_too_long_is_told_so_and_is_not_scored_any_more(lost: bool) -> None:
    replicas = FakeReplicas()
    if lost:
        replicas.errors = {b"a": [ReplicaLostError("killed")] * 10_000}
    else:
        replicas.go_on.clear()
    async with running(replicas, room=1, scoring_timeout_ms=50) as dispatcher:
        answers = submit(dispatcher, b"a", b"waits")
        results = await asyncio.gather(*answers, return_exceptions=True)
        await asyncio.sleep(0.01)

        assert {type(result) for result in results} == {ScoringTimeoutError}
        assert b"waits" not in replicas.sent
        assert replicas.gone == ([] if lost else [b"a"])
        assert (dispatcher._sent, len(dispatcher._queue)) == ({}, 0)


async def test_who_leaves_makes_room_for_the_next() -> None:
    replicas = FakeReplicas()
    replicas.go_on.clear()
    async with running(replicas, room=1, max_queue_images=2) as dispatcher:
        first, second = submit(dispatcher, b"first", b"second")
        await until(lambda: replicas.sent == [b"first"])
        with pytest.raises(QueueFullError):
            submit(dispatcher, b"third")

        second.cancel()
        await asyncio.sleep(0)
        assert len(dispatcher._queue) == 0
        first.cancel()
        await asyncio.sleep(0)
        [third] = submit(dispatcher, b"third")
        replicas.go_on.set()

        assert await third == b"third"
        assert replicas.gone == [b"first"]
        assert b"second" not in replicas.sent


async def test_before_there_is_a_replica_images_are_refused_and_later_they_wait_for_one() -> None:
    replicas = FakeReplicas(running=0)
    async with running(replicas) as dispatcher:
        with pytest.raises(UnavailableError, match=LOADING):
            submit(dispatcher, b"a")
        assert (dispatcher.health().unhealthy, dispatcher.health().dead) == (LOADING, None)

        replicas.running = 1
        await until(lambda: dispatcher.health().unready is None)
        replicas.running = 0
        replicas.go_on.clear()
        await until(lambda: dispatcher._count == 0)
        [answer] = submit(dispatcher, b"a")
        replicas.go_on.set()

        assert await answer == b"a"


async def test_new_clients_should_go_elsewhere_when_there_is_no_replica_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_DESERTED_S", 0.02)
    replicas = FakeReplicas()
    async with running(replicas) as dispatcher:
        replicas.running = 0
        await until(lambda: dispatcher.health().unready == FAILING)
        assert dispatcher.health().refusing is None

        replicas.running = 1
        await until(lambda: dispatcher.health().unready is None)


async def test_when_replicas_cannot_be_counted_nothing_has_changed() -> None:
    replicas = FakeReplicas(running=3)
    async with running(replicas) as dispatcher:
        replicas.uncountable = True
        await asyncio.sleep(0.01)

        assert dispatcher._count == 3
        assert dispatcher.health().dead is None


async def test_who_is_refused_is_told_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = FakeReplicas()
    replicas.go_on.clear()
    async with running(replicas, max_queue_images=2) as dispatcher:
        monkeypatch.setattr(dispatcher._admission._pace, "seconds_per_image", lambda: 1.6)
        submit(dispatcher, b"a", b"b")

        with pytest.raises(QueueFullError) as refused:
            submit(dispatcher, b"c")

    assert refused.value.retry_after_s == 4


async def test_stopping_answers_those_who_wait_and_leaves_no_task() -> None:
    replicas = FakeReplicas()
    replicas.go_on.clear()
    before = asyncio.all_tasks()
    async with running(replicas, room=1) as dispatcher:
        answers = submit(dispatcher, b"a", b"b")
        await until(lambda: replicas.sent == [b"a"])

    results = await asyncio.gather(*answers, return_exceptions=True)
    assert [str(result) for result in results] == [STOPPING] * 2
    assert asyncio.all_tasks() == before
