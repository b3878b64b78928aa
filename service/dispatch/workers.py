"""The parent's side of one worker process."""

import asyncio
import contextlib
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from typing import Protocol

from service.protocol import HEADER, Frame, Kind, WorkerInfo, WorkerStart

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 5.0

# -P: a folder called "model" where the user happens to stand must not be taken for ours.
WORKER_COMMAND = (sys.executable, "-P", "-m", "service.worker")


class WorkerLostError(Exception):
    """The process has ended, or is about to."""


class WorkerStartError(Exception):
    """No worker can start with these settings; the text is one line saying why."""


class Worker(Protocol):
    """What the dispatcher needs of a worker; see ``WorkerProcess``."""

    async def start(self) -> WorkerInfo: ...
    def send(self, frame: Frame) -> None: ...
    async def receive(self) -> Frame: ...
    def unread_bytes(self) -> int: ...
    def kill(self) -> None: ...
    async def stop(self) -> int | None: ...


class WorkerProcess:
    """One process that scores images.

    It ends when its standard input closes, so that it cannot outlive a killed parent. It has a
    session of its own: a Ctrl-C or a signal to the parent's group must not take it away while
    the parent still finishes requests.
    """

    def __init__(self, start: WorkerStart, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._start = start
        self._command = command
        self._process: Process | None = None

    async def start(self) -> WorkerInfo:
        """Return once the model is loaded and warm.

        Raises:
            WorkerStartError: The worker says it can never start like this.
            WorkerLostError: The process ended while starting.
        """
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        self.send(Frame(Kind.START, payload=self._start.to_json()))
        match await self.receive():
            case Frame(Kind.READY, _, payload):
                return WorkerInfo.from_json(payload)
            case Frame(Kind.FATAL, _, reason):
                raise WorkerStartError(reason.decode())
            case frame:
                raise WorkerLostError(f"the worker answered its start with {frame.kind.name}")

    def send(self, frame: Frame) -> None:
        """Queue a frame for the worker. That it is gone shows in ``receive``."""
        stdin = self._running().stdin
        assert stdin is not None
        if not stdin.is_closing():
            with contextlib.suppress(RuntimeError):  # uvloop, when the pipe has just broken
                stdin.writelines((frame.header(), frame.payload))

    async def receive(self) -> Frame:
        """The worker's next frame.

        Raises:
            WorkerLostError: The process ended, or wrote what is no frame.
        """
        stdout = self._running().stdout
        assert stdout is not None
        try:
            kind, job, length = HEADER.unpack(await stdout.readexactly(HEADER.size))
            return Frame(Kind(kind), job, await stdout.readexactly(length))
        except (OSError, EOFError, ValueError) as error:
            raise WorkerLostError("the worker closed its pipe, or wrote no frame") from error

    def unread_bytes(self) -> int:
        """Sent, but not yet taken by the worker: one that hangs must not be fed for ever."""
        stdin = self._running().stdin
        assert stdin is not None
        return stdin.transport.get_write_buffer_size()

    def kill(self) -> None:
        """End the process, whatever it is doing; harmless when it has ended or never started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self) -> int | None:
        """End the process and wait until it has; its exit code.

        A process that a device holds in the kernel cannot be ended: it is left behind, with None.
        """
        self.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                return await self._process.wait() if self._process else None
        logger.error("a worker does not end")
        return None

    def _running(self) -> Process:
        if self._process is None:
            raise WorkerLostError("the worker was never started")
        return self._process
