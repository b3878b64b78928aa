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
from service.web.budget import Account

_JSON = re.compile(r"application/(?:[^\s;/]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


def require_json(request: Request) -> None:
    """Refuse a body that is not declared as plain JSON, before a byte of it is read."""
    if not _JSON.fullmatch(request.headers.get("content-type", "").strip()):
        raise UnsupportedMediaTypeError("Expects Content-Type to be application/json")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaTypeError("Content-Encoding is not supported: send the JSON as it is")


async def read_body(request: Request, settings: Settings, account: Account) -> bytearray:
    """All of the body, held on ``account``. Too large is refused as soon as that is known."""
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
                account.add(len(chunk))
                body += chunk
    except TimeoutError:
        raise BodyTimeoutError(
            f"the body did not arrive within {settings.body_timeout_s:g} s"
        ) from None
    except ClientDisconnect:
        raise ClientGoneError("the client left before the body was complete") from None
    return body
