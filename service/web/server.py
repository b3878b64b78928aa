"""From settings to a listening process, and its end."""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn

from service.dispatch.dispatcher import LocalDispatcher
from service.logs import configure_logging
from service.metrics import Metrics
from service.settings import Settings
from service.web.app import create_app
from service.web.connection import BoundedHttpProtocol

# Of the grace period, what stopping the worker and leaving the interpreter may take.
_LAST_STEPS_S = 3

_BACKLOG = 2048  # connections the system holds until they are accepted; uvicorn's own number


def serve(settings: Settings) -> int:
    """Serve until told to stop; return the exit code of the process.

    0 after SIGTERM or SIGINT. 1 when the model cannot be loaded or the port cannot be had, with
    one line on standard error that says why. The log goes to standard output.
    """
    weights = settings.weights_path
    if not weights.exists():
        return _give_up(f"{weights}: no such weights file")
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        return _give_up(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")
    configure_logging(sys.stdout)
    metrics = Metrics()
    dispatcher = LocalDispatcher(settings, metrics)
    server = _Server(settings, dispatcher, metrics)
    server.run([listener])
    if not server.started:
        return _give_up("the application could not be started; the log says why")
    return 0 if dispatcher.failure is None else _give_up(dispatcher.failure)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def _give_up(reason: str) -> int:
    sys.stderr.write(f"solov2: {reason}\n")
    return 1


class _Server(uvicorn.Server):
    """Told to end by SIGTERM, it goes on for a moment: load balancers notice with a delay."""

    def __init__(self, settings: Settings, dispatcher: LocalDispatcher, metrics: Metrics) -> None:
        drain_delay_s = min(settings.drain_delay_s, max(0, settings.grace_s - 2 * _LAST_STEPS_S))
        self._finish_s = max(1, int(settings.grace_s - drain_delay_s) - _LAST_STEPS_S)
        config = uvicorn.Config(
            create_app(settings, dispatcher, metrics),
            http=BoundedHttpProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=self._finish_s,
        )
        super().__init__(config)
        self._dispatcher = dispatcher
        self._drain_delay_s = drain_delay_s
        self._drained_at: float | None = None  # on the monotonic clock

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; true ends the server."""
        drained = self._drained_at is not None and time.monotonic() >= self._drained_at
        return drained or self._dispatcher.failure is not None or await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal, or Ctrl-C, does not wait for anybody to notice."""
        ready = self._dispatcher.health().unready is None
        if sig == signal.SIGTERM and ready and self._drained_at is None:
            self._drained_at = time.monotonic() + self._drain_delay_s
            self._dispatcher.drain()
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer those that wait shortly before uvicorn would cut them off without a word."""
        asyncio.get_running_loop().call_later(self._finish_s - 0.7, self._dispatcher.close)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's own, never raise a signal again at the end: the exit code is 0 then."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield
