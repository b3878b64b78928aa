"""uvicorn's HTTP protocol with bounds on what comes before a body."""

import asyncio

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_MAX_HEADER_BYTES = 64 * 1024  # request line included
_HEADER_TIMEOUT_S = 10  # from the first byte, or the opening of the connection
_STALL_TIMEOUT_S = 20  # in which a client reads nothing of its answer


class BoundedHttpProtocol(HttpToolsProtocol):
    """Ends a connection whose request line and headers are endless, in bytes or in time.

    uvicorn bounds neither, and no application sees a request before its headers are complete. Nor
    does it bound how long an answer may lie here unread.
    """

    _clock: asyncio.TimerHandle  # hangs up; runs while headers are expected
    _stall: asyncio.TimerHandle | None = None  # hangs up; runs while an answer is not read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clock.cancel()
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > _MAX_HEADER_BYTES:
                self._end(431, f"the headers have more than {_MAX_HEADER_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._clock.cancel()
        self._expect_headers()

    def on_headers_complete(self) -> None:
        self._clock.cancel()
        self._in_headers = False
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write, or not at all."""
        super().pause_writing()
        self._watch_progress()

    def resume_writing(self) -> None:
        self._stop_watching()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._end(400, msg)

    def _expect_headers(self) -> None:
        self._in_headers = True
        self._header_bytes = 0
        self._clock = self.loop.call_later(_HEADER_TIMEOUT_S, self.transport.close)

    def _watch_progress(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(_STALL_TIMEOUT_S, self._require_progress, unread)

    def _stop_watching(self) -> None:
        if self._stall is not None:
            self._stall.cancel()

    def _require_progress(self, unread_before: int) -> None:
        if self.transport.get_write_buffer_size() < unread_before:
            self._watch_progress()
        else:
            self.transport.abort()

    def _end(self, status: int, message: str) -> None:
        """Answer and close; whoever sends such requests reads it, or not."""
        if self.transport.is_closing():
            return
        body = orjson.dumps({"message": message})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()
