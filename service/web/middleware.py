"""What every request gets: Azure's ids and headers, an answer, and one line in the log."""

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version

from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    HeaderTooLargeError,
    InternalError,
    QueueFullError,
    ScoringTimeoutError,
    ServiceError,
    TooManyBytesError,
    UnavailableError,
)
from service.logs import log_event
from service.metrics import Metrics
from service.settings import Settings
from service.web.answers import error_answer

logger = logging.getLogger(__name__)
_tracer = trace.get_tracer("solov2")

REQUEST_ID = "x-request-id"
CLIENT_ID = "x-ms-client-request-id"
LEGACY_ID = "x-ms-request-id"  # deprecated by Azure, still sent by its clients
TRACE_ID = "traceid"
SERVER_VERSION = "x-ms-server-version"

_REJECTIONS = {
    error.reason
    for error in (QueueFullError, TooManyBytesError, UnavailableError, ScoringTimeoutError)
}
_MAX_ID_CHARS = 100
_MAX_UNKNOWN_PATH = 40  # characters; somebody may have put an image there
#: Called every few seconds by probes and scrapers: neither logged nor counted.
PROBES = {"/", "/livez", "/readyz", "/metrics"}


@dataclass(slots=True)
class RequestRecord:
    """What the log will say about one request; whoever learns something fills it in."""

    request_id: str = ""
    status: int = 500
    reason: str = "unfinished"
    images: int = 0
    body_bytes: int = 0
    stages_ms: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note how long the block takes; a span of its own where requests are traced."""
        started = time.perf_counter()
        try:
            with _tracer.start_as_current_span(name, record_exception=False):
                yield
        finally:
            self.stages_ms[name] = _milliseconds_since(started)


class RequestMiddleware:
    """Puts a ``RequestRecord`` into the request's state, its ids on the answer; logs and counts it.

    Whatever the application raises becomes an answer here, so that it has these headers too.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics
        self._version = f"solov2/{version('solov2')}" if settings.server_version_header else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent, refusal = self._headers(Headers(scope=scope))
        record = RequestRecord(sent.get(REQUEST_ID, ""))
        scope.setdefault("state", {})["record"] = record
        begun = False
        if scope.get("query_string"):  # with the image, in GET /score; FastAPI has put it there
            trace.get_current_span().set_attribute("url.query", "...")
        if scope["path"] not in PROBES:
            self._metrics.in_flight.inc()

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                record.status = message["status"]
                if record.status < 400:
                    record.reason = "ok"
                MutableHeaders(scope=message).update(sent)
            await send(message)

        try:
            if refusal is not None:
                raise refusal
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            if begun:
                raise
            answerable = _as_answerable(error, record)
            await error_answer(answerable)(scope, receive, send_with_headers)
        finally:
            if scope["path"] not in PROBES:
                _log(scope, record)
                self._count(record)

    def _count(self, record: RequestRecord) -> None:
        metrics = self._metrics
        metrics.in_flight.dec()
        metrics.requests.labels(str(record.status), record.reason).inc()
        metrics.request_seconds.observe(time.perf_counter() - record.started)
        for stage, milliseconds in record.stages_ms.items():
            metrics.stage_seconds.labels(stage).observe(milliseconds / 1000)
        if record.reason in _REJECTIONS:
            metrics.rejected.labels(record.reason).inc()

    def _headers(self, request: Headers) -> tuple[dict[str, str], HeaderTooLargeError | None]:
        """The headers to send with the answer, and why the request is refused for its own."""
        ids, refusal = _ids(request)
        others = {TRACE_ID: request.get(TRACE_ID), SERVER_VERSION: self._version}
        return ids | {name: value for name, value in others.items() if value}, refusal


def _ids(request: Headers) -> tuple[dict[str, str], HeaderTooLargeError | None]:
    request_id = request.get(REQUEST_ID) or str(uuid.uuid4())
    if len(request_id) > _MAX_ID_CHARS:
        return {}, HeaderTooLargeError(f"{REQUEST_ID} must not exceed {_MAX_ID_CHARS} characters")
    legacy = request.get(LEGACY_ID, "")
    client = request.get(CLIENT_ID, "") or legacy
    if max(len(legacy), len(client)) > _MAX_ID_CHARS:
        names = f"{LEGACY_ID} and {CLIENT_ID}"
        refusal = HeaderTooLargeError(f"{names} must not exceed {_MAX_ID_CHARS} characters")
        return {REQUEST_ID: request_id}, refusal
    ids = {REQUEST_ID: request_id, LEGACY_ID: legacy or client or request_id}
    return ids | ({CLIENT_ID: client} if client else {}), None


def _as_answerable(error: Exception, record: RequestRecord) -> ServiceError:
    if not isinstance(error, ServiceError):
        logger.error("a request failed through a bug", exc_info=error)
        error = InternalError()
    record.reason = error.reason
    return error


def _log(scope: Scope, record: RequestRecord) -> None:
    log_event(
        logger,
        "request",
        request_id=record.request_id,
        method=scope["method"],
        path=scope["path"] if "endpoint" in scope else scope["path"][:_MAX_UNKNOWN_PATH],
        status=record.status,
        reason=record.reason,
        images=record.images,
        bytes=record.body_bytes,
        stages_ms=record.stages_ms,
        ms=_milliseconds_since(record.started),
    )


def _milliseconds_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
