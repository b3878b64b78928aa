import asyncio
import itertools

import pytest
from starlette.requests import Request

from service.errors import BadImageError, ClientGoneError, QueueFullError
from service.protocol import EncodedImage
from service.web.scoring import score_all, unless_client_leaves

pytestmark = pytest.mark.anyio


class GatedDispatcher:
    """Answers with the image's bytes, each once its gate is open."""

    def __init__(self, *refused: bytes) -> None:
        self.refused = refused
        self.gates: dict[bytes, asyncio.Event] = {}
        self.cancelled: list[bytes] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def unavailable(self) -> str | None:
        return None

    async def score(self, image: EncodedImage) -> bytes:
        if image.data in self.refused:
            raise BadImageError("it is bad")
        try:
            await self.gates.setdefault(image.data, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.cancelled.append(image.data)
            raise
        return image.data


def images(*data: bytes) -> list[EncodedImage]:
    return [EncodedImage(one, 1, 1) for one in data]


def open_connection() -> tuple[Request, asyncio.Event]:
    """A request whose body was read, and what makes its client leave."""
    leave = asyncio.Event()

    async def receive() -> dict[str, str]:
        await leave.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive), leave


async def settled() -> None:
    """Let everything run that can."""
    for _ in itertools.repeat(None, 10):
        await asyncio.sleep(0)


async def test_images_are_scored_together_and_answers_keep_the_order_of_the_rows() -> None:
    dispatcher = GatedDispatcher()
    scoring = asyncio.create_task(score_all(images(b"a", b"b", b"c"), dispatcher))
    await settled()

    for name in (b"c", b"a", b"b"):
        dispatcher.gates[name].set()
        await settled()

    assert await scoring == [b"a", b"b", b"c"]


async def test_a_bad_image_names_its_row_and_takes_the_others_out_of_the_queue() -> None:
    dispatcher = GatedDispatcher(b"bad")

    with pytest.raises(BadImageError, match=r"^row 1: it is bad$"):
        await score_all(images(b"a", b"bad", b"c"), dispatcher)

    await settled()
    assert dispatcher.cancelled == [b"a", b"c"]


async def test_a_full_queue_is_about_the_request_not_about_a_row() -> None:
    class Full(GatedDispatcher):
        async def score(self, image: EncodedImage) -> bytes:
            raise QueueFullError("too many images are waiting")

    with pytest.raises(QueueFullError, match=r"^too many"):
        await score_all(images(b"a", b"b"), Full())


async def test_work_for_a_client_that_stays_is_finished() -> None:
    request, _ = open_connection()
    before = asyncio.all_tasks()

    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await unless_client_leaves(request, work()) == "done"
    await settled()
    assert asyncio.all_tasks() == before


async def test_work_that_fails_says_so() -> None:
    request, _ = open_connection()

    with pytest.raises(BadImageError):
        await unless_client_leaves(request, score_all(images(b"bad"), GatedDispatcher(b"bad")))


async def test_work_for_a_client_that_leaves_is_cancelled() -> None:
    request, leave = open_connection()
    before = asyncio.all_tasks()
    dispatcher = GatedDispatcher()
    waiting = asyncio.create_task(
        unless_client_leaves(request, score_all(images(b"a", b"b"), dispatcher))
    )
    await settled()

    leave.set()

    with pytest.raises(ClientGoneError):
        await waiting
    await settled()
    assert dispatcher.cancelled == [b"a", b"b"]
    assert asyncio.all_tasks() == before
