"""The request body, bounded in bytes and in time."""

import asyncio
import contextlib
import re

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientGoneError,
    UnsupportedMediaTypeError,
)
from service.settings import Settings

# How long a client that still sends may go on, so that it comes to read why nobody listens.
_LINGER_S = 10

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


class ClosingResponse(Response):
    """Answers at once a request whose body will not be read, then closes the connection.

    Closing at once would reset it under a client that still sends, and the answer would be lost.
    Not closing would let that client send for ever. So what comes is dropped for a while first.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body"})
