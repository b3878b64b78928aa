"""Answers as small as the client can read them."""

import asyncio
import gzip
import re

from starlette.responses import Response

# Below this a packet or two are saved.
_MIN_BYTES = 16 * 1024
# Outlines shrink to a quarter at 6 ms a megabyte; the next levels take far longer for little.
_LEVEL = 1

_ACCEPTS_GZIP = re.compile(
    r"(?:^|,)\s*gzip\s*(?:;\s*q=(?!0(?:\.0*)?\s*(?:,|$))[^,]*)?(?:,|$)", re.I
)


async def compressed(response: Response, accept_encoding: str) -> Response:
    """The response, with gzip where it is large and the client takes that."""
    if len(response.body) < _MIN_BYTES:
        return response
    response.headers["vary"] = "Accept-Encoding"
    if _ACCEPTS_GZIP.search(accept_encoding):
        response.body = await asyncio.to_thread(gzip.compress, response.body, _LEVEL)
        response.headers["content-encoding"] = "gzip"
        response.headers["content-length"] = str(len(response.body))
    return response
