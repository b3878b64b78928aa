"""The parent's side of one worker process."""

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence

from service.errors import BadImageError, ScoringError
from service.protocol import HEADER, EncodedImage, Frame, Kind
from service.settings import Settings

# -P: a folder called "model" where the user happens to stand must not be taken for ours.
WORKER_COMMAND = (sys.executable, "-P", "-m", "service.worker")

_TERMINATION_S = 1.0


class WorkerLostError(Exception):
    """The process has ended, or is about to."""


class WorkerStartError(Exception):
    """No worker can start with these settings; the text is one line saying why."""


class WorkerProcess:
    """One process that scores one image at a time.

    It ends when its standard input closes, so that it cannot outlive a killed parent. It has a
    session of its own: a Ctrl-C or a signal to the parent's group must not take it away while
    the parent still finishes requests.
    """

    def __init__(self, settings: Settings, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._settings = settings
        self._command = command
        self._process: Process | None = None

    async def start(self) -> None:
        """Return once the model is loaded and warm.

        Raises:
            WorkerStartError: The worker says it can never start like this.
            WorkerLostError: The process ended while starting.
        """
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, start_new_session=True
        )
        start = Frame(Kind.START, self._settings.model_dump_json().encode())
        match await self._ask(start):
            case Frame(Kind.READY):
                return
            case Frame(Kind.FATAL, reason):
                raise WorkerStartError(reason.decode())
            case frame:
                raise WorkerLostError(f"the worker answered its start with {frame.kind.name}")

    async def score(self, image: EncodedImage) -> bytes:
        """The image's JSON fragment.

        Raises:
            BadImageError: The image cannot be decoded or resized.
            ScoringError: The worker failed on it, and lives on.
            WorkerLostError: The process ended before it answered.
        """
        match await self._ask(Frame(Kind.SCORE, image.data)):
            case Frame(Kind.RESULT, fragment):
                return fragment
            case Frame(Kind.BAD_IMAGE, reason):
                raise BadImageError(reason.decode())
            case Frame(Kind.FAILED):
                raise ScoringError
            case frame:
                raise WorkerLostError(f"the worker answered an image with {frame.kind.name}")

    async def wait(self) -> int:
        """The exit code, once the process has ended."""
        return await self._running().wait()

    async def stop(self) -> None:
        """End the process, whatever it is doing; harmless when it has ended or never started."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_TERMINATION_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(self, question: Frame) -> Frame:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdin.is_closing():
            raise WorkerLostError("the worker closed its pipe")
        try:
            process.stdin.writelines((question.header(), question.payload))
            await process.stdin.drain()
            kind, length = HEADER.unpack(await process.stdout.readexactly(HEADER.size))
            return Frame(Kind(kind), await process.stdout.readexactly(length))
        except (OSError, EOFError, ValueError) as error:
            raise WorkerLostError("the worker closed its pipe, or wrote no frame") from error

    def _running(self) -> Process:
        if self._process is None:
            raise WorkerLostError("the worker was never started")
        return self._process
