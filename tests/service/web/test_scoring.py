import asyncio
import base64
import itertools
from collections.abc import Callable, Sequence

import pytest
from PIL import Image
from starlette.requests import Request

from service.dispatch.dispatcher import Health
from service.errors import BadImageError, ClientGoneError, QueueFullError
from service.protocol import EncodedImage
from service.settings import Settings
from service.web.budget import ByteBudget
from service.web.middleware import RequestRecord
from service.web.scoring import Scorer, unless_client_leaves

pytestmark = pytest.mark.anyio


class GatedDispatcher:
    """Leaves it to the test to settle the answers, but refuses some images at once."""

    def __init__(self, *refused: bytes) -> None:
        self.refused = refused
        self.answers: dict[bytes, asyncio.Future[bytes]] = {}

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def health(self) -> Health:
        return Health()

    def submit(self, images: Sequence[EncodedImage]) -> list[asyncio.Future[bytes]]:
        loop = asyncio.get_running_loop()
        self.answers = {image.data: loop.create_future() for image in images}
        for data in self.refused:
            self.answers[data].set_exception(BadImageError("it is bad"))
        return [*self.answers.values()]

    def cancelled(self) -> list[bytes]:
        return [data for data, answer in self.answers.items() if answer.cancelled()]


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
        dispatcher.answers[file].set_result(file)
        await settled()

    assert await scoring == files


async def test_while_images_wait_they_alone_are_held_and_not_their_base64(
    files: list[bytes],
) -> None:
    dispatcher = GatedDispatcher()
    texts = [base64.b64encode(file).decode() for file in files]
    with ByteBudget(1000).account() as account:
        account.add(sum(map(len, texts)))
        scorer = Scorer(Settings(), dispatcher, NoFetcher())
        scoring = asyncio.create_task(scorer.score(texts, account, RequestRecord()))
        await settled()

        assert texts == []
        assert account.held == sum(map(len, files))
        scoring.cancel()


async def test_a_bad_image_names_its_row_and_takes_the_others_out_of_the_queue(
    files: list[bytes],
) -> None:
    dispatcher = GatedDispatcher(files[1])

    with pytest.raises(BadImageError, match=r"^row 1: it is bad$"):
        await score(dispatcher, *files)

    assert dispatcher.cancelled() == [files[0], files[2]]


async def test_no_image_is_scored_when_one_of_them_cannot_be_read(files: list[bytes]) -> None:
    dispatcher = GatedDispatcher()

    with pytest.raises(BadImageError, match=r"^row 1: not a JPEG"):
        await score(dispatcher, files[0], b"no image")

    assert dispatcher.answers == {}


async def test_a_full_queue_is_about_the_request_not_about_a_row(files: list[bytes]) -> None:
    class Full(GatedDispatcher):
        def submit(self, images: Sequence[EncodedImage]) -> list[asyncio.Future[bytes]]:
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
    assert dispatcher.cancelled() == files
    assert asyncio.all_tasks() == before
