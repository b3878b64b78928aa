import asyncio
import base64
import itertools
from collections.abc import Callable

import pytest
from PIL import Image
from starlette.requests import Request

from service.errors import BadImageError, ClientGoneError, QueueFullError
from service.protocol import EncodedImage
from service.settings import Settings
from service.web.budget import ByteBudget
from service.web.middleware import RequestRecord
from service.web.scoring import Scorer, unless_client_leaves

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


class NoFetcher:
    """For requests without addresses."""


async def score(dispatcher: GatedDispatcher, *files: bytes) -> list[bytes]:
    texts = [base64.b64encode(file).decode() for file in files]
    with ByteBudget(1000).account() as account:
        return await Scorer(Settings(), dispatcher, NoFetcher()).score(
            texts, account, RequestRecord()
        )


@pytest.fixture
def files(encode: Callable[..., bytes]) -> list[bytes]:
    """Three pictures that differ."""
    return [encode(Image.new("L", (1, 1), grey), "PNG") for grey in (1, 2, 3)]


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


async def test_images_are_scored_together_and_answers_keep_the_order_of_the_rows(
    files: list[bytes],
) -> None:
    dispatcher = GatedDispatcher()
    scoring = asyncio.create_task(score(dispatcher, *files))
    await settled()

    for file in files[::-1]:
        dispatcher.gates[file].set()
        await settled()

    assert await scoring == files


async def test_a_bad_image_names_its_row_and_takes_the_others_out_of_the_queue(
    files: list[bytes],
) -> None:
    dispatcher = GatedDispatcher(files[1])

    with pytest.raises(BadImageError, match=r"^row 1: it is bad$"):
        await score(dispatcher, *files)

    await settled()
    assert dispatcher.cancelled == [files[0], files[2]]


async def test_no_image_is_scored_when_one_of_them_cannot_be_read(files: list[bytes]) -> None:
    dispatcher = GatedDispatcher()

    with pytest.raises(BadImageError, match=r"^row 1: not a JPEG"):
        await score(dispatcher, files[0], b"no image")

    assert dispatcher.gates == {}


async def test_a_full_queue_is_about_the_request_not_about_a_row(files: list[bytes]) -> None:
    class Full(GatedDispatcher):
        async def score(self, image: EncodedImage) -> bytes:
            raise QueueFullError("too many images are waiting")

    with pytest.raises(QueueFullError, match=r"^too many"):
        await score(Full(), *files)


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
        await unless_client_leaves(request, score(GatedDispatcher(), b"bad"))


async def test_work_for_a_client_that_leaves_is_cancelled(files: list[bytes]) -> None:
    request, leave = open_connection()
    before = asyncio.all_tasks()
    dispatcher = GatedDispatcher()
    waiting = asyncio.create_task(unless_client_leaves(request, score(dispatcher, *files)))
    await settled()

    leave.set()

    with pytest.raises(ClientGoneError):
        await waiting
    await settled()
    assert dispatcher.cancelled == files
    assert asyncio.all_tasks() == before
