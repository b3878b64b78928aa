"""The request body, bounded in bytes and in time."""

import asyncio
import re

from starlette.requests import ClientDisconnect, Request

from service.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientGoneError,
    UnsupportedMediaTypeError,
)
from service.settings import Settings

_JSON = re.compile(r"application/(?:[^\s;/]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


def require_json(request: Request) -> None:
    """Refuse a body that is not declared as JSON, before a byte of it is read."""
    if not _JSON.fullmatch(request.headers.get("content-type", "").strip()):
        raise UnsupportedMediaTypeError("Expects Content-Type to be application/json")


async def read_body(request: Request, settings: Settings) -> bytearray:
    """All of the body. What is too large is refused as soon as that is known."""
    limit = settings.max_body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLargeError(f"the body has {declared} bytes, more than the limit of {limit}")
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise BodyTooLargeError(f"the body has more than the limit of {limit} bytes")
                body += chunk
    except TimeoutError:
        raise BodyTimeoutError(
            f"the body did not arrive within {settings.body_timeout_s:g} s"
        ) from None
    except ClientDisconnect:
        raise ClientGoneError("the client left before the body was complete") from None
    return body
