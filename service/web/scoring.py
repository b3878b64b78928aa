"""The rows of one request, scored together."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from service.dispatch.dispatcher import Dispatcher
from service.errors import BadImageError, BadRequestError, ClientGoneError
from service.protocol import EncodedImage
from service.settings import Settings
from service.web.body import read_body
from service.web.images import read_image
from service.web.middleware import RequestRecord
from service.web.schemas import parse_images

T = TypeVar("T")


async def read_images(
    request: Request, settings: Settings, record: RequestRecord
) -> list[EncodedImage]:
    """Every image of the request, all of them checked before the first is scored."""
    body = await read_body(request, settings)
    record.body_bytes = len(body)
    texts = parse_images(body)
    if len(texts) > settings.max_images_per_request:
        raise BadRequestError(
            f"input_data.data: {len(texts)} images, "
            f"more than the limit of {settings.max_images_per_request} a request"
        )
    images = [await read_image(row, text, settings) for row, text in enumerate(texts)]
    record.images = len(images)
    return images


async def score_all(images: Sequence[EncodedImage], dispatcher: Dispatcher) -> list[bytes]:
    """One JSON fragment an image, in their order. The first that fails cancels the rest."""
    tasks = [
        asyncio.create_task(_score_row(row, image, dispatcher)) for row, image in enumerate(images)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _score_row(row: int, image: EncodedImage, dispatcher: Dispatcher) -> bytes:
    try:
        return await dispatcher.score(image)
    except BadImageError as error:
        raise error.in_row(row) from error


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
