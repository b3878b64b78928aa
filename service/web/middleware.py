"""What every request gets: an id, and one line in the log."""

import logging
import time
import uuid
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import log_event

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"

_UNLOGGED_PATHS = {"/", "/livez", "/readyz"}  # probes call them every few seconds


@dataclass(slots=True)
class RequestRecord:
    """What the log will say about one request; whoever learns something fills it in."""

    request_id: str
    status: int = 500
    reason: str = "unfinished"
    images: int = 0
    body_bytes: int = 0
    started: float = field(default_factory=time.perf_counter)


class RequestMiddleware:
    """Puts a ``RequestRecord`` into the request's state, its id on the answer, and logs it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = RequestRecord(Headers(scope=scope).get(REQUEST_ID) or str(uuid.uuid4()))
        scope.setdefault("state", {})["record"] = record

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if record.status < 400:
                    record.reason = "ok"
                MutableHeaders(scope=message)[REQUEST_ID] = record.request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            record.reason = "internal_error"
            raise
        finally:
            _log(scope, record)


def _log(scope: Scope, record: RequestRecord) -> None:
    if scope["path"] in _UNLOGGED_PATHS:
        return
    log_event(
        logger,
        "request",
        request_id=record.request_id,
        method=scope["method"],
        path=scope["path"],
        status=record.status,
        reason=record.reason,
        images=record.images,
        bytes=record.body_bytes,
        ms=round((time.perf_counter() - record.started) * 1000, 3),
    )
