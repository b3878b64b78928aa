"""The rows of one request, scored together."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from service.dispatch.dispatcher import Dispatcher
from service.errors import BadImageError, ClientGoneError
from service.protocol import EncodedImage
from service.settings import Settings
from service.web.budget import Account
from service.web.fetch import Fetcher
from service.web.images import read_image
from service.web.middleware import RequestRecord

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scorer:
    """All that turns image strings into JSON fragments."""

    settings: Settings
    dispatcher: Dispatcher
    fetcher: Fetcher

    async def score(self, texts: list[str], account: Account, record: RequestRecord) -> list[bytes]:
        """One fragment an image, in their order.

        All are read and checked before the first is scored. The first that fails cancels the rest.
        ``texts`` is emptied: the images are held from then on, not their base64.
        """
        with record.stage("images"):
            reading = [self._read(row, text, account) for row, text in enumerate(texts)]
            images = await _all_of([asyncio.create_task(part) for part in reading])
            texts.clear()
            account.keep(sum(len(image.data) for image in images))
        with record.stage("score"):
            answers = self.dispatcher.submit(images)
            try:
                return await _all_of(answers)
            except BadImageError as error:
                raise error.in_row(_failed_row(answers, error)) from None

    async def _read(self, row: int, text: str, account: Account) -> EncodedImage:
        try:
            return await read_image(text, self.settings, self.fetcher, account)
        except BadImageError as error:
            raise error.in_row(row) from None


async def _all_of(parts: Sequence[asyncio.Future[T]]) -> list[T]:
    """The results in order; the first failure cancels the rest."""
    try:
        return await asyncio.gather(*parts)
    finally:
        for part in parts:
            part.cancel()


def _failed_row(answers: Sequence[asyncio.Future[bytes]], error: BadImageError) -> int:
    failed = (a.done() and not a.cancelled() and a.exception() is error for a in answers)
    return [*failed].index(True)


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled as soon as nobody waits for it any more.

    The body must have been read: whatever the connection says next is that it has ended.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError("the client left before its answer")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
