import asyncio
import os
import signal
import sys

import pytest

from service.dispatch.workers import WorkerLostError, WorkerProcess, WorkerStartError
from service.errors import BadImageError, ScoringError
from service.protocol import EncodedImage
from service.settings import Settings

pytestmark = pytest.mark.anyio

SPEAKS_THE_PROTOCOL = """
import os, sys, time
from service.protocol import Frame, Kind, receive_frame, send_frame

source, sink = sys.stdin.buffer, sys.stdout.buffer
settings = receive_frame(source).payload
send_frame(sink, Frame(Kind.READY))
while (frame := receive_frame(source)) is not None:
    match frame.payload:
        case b"settings":
            send_frame(sink, Frame(Kind.RESULT, settings))
        case b"bad":
            send_frame(sink, Frame(Kind.BAD_IMAGE, "is café".encode()))
        case b"fail":
            send_frame(sink, Frame(Kind.FAILED))
        case b"confuse":
            send_frame(sink, Frame(Kind.START))
        case b"babble":
            sink.write(bytes(5) + b"garbage"); sink.flush()
        case b"die":
            os._exit(3)
        case b"hang":
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            send_frame(sink, Frame(Kind.RESULT, b"hanging"))
            time.sleep(60)
        case other:
            send_frame(sink, Frame(Kind.RESULT, other[::-1]))
"""
CANNOT_START = """
import sys
from service.protocol import Frame, Kind, receive_frame, send_frame
receive_frame(sys.stdin.buffer)
send_frame(sys.stdout.buffer, Frame(Kind.FATAL, b"w.safetensors: damaged"))
"""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """The loop the service runs on, too: it treats pipes of its own way."""
    return "asyncio", {"use_uvloop": request.param}


def worker_running(script: str, settings: Settings | None = None) -> WorkerProcess:
    return WorkerProcess(settings or Settings(), [sys.executable, "-c", script])


def image(data: bytes) -> EncodedImage:
    return EncodedImage(data, 1, 1)


async def test_images_go_in_and_fragments_come_out() -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)
    await worker.start()

    answers = [await worker.score(image(data)) for data in (b"abc", b"", b"xy" * 500_000)]

    await worker.stop()
    assert answers == [b"cba", b"", b"yx" * 500_000]


async def test_the_worker_gets_the_settings_of_its_parent() -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL, Settings(polygon_tolerance_px=2.5))
    await worker.start()

    received = await worker.score(image(b"settings"))

    await worker.stop()
    assert Settings.model_validate_json(received).polygon_tolerance_px == 2.5


async def test_a_bad_image_and_a_failure_leave_the_worker_alive() -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)
    await worker.start()

    with pytest.raises(BadImageError, match="is café"):
        await worker.score(image(b"bad"))
    with pytest.raises(ScoringError):
        await worker.score(image(b"fail"))

    assert await worker.score(image(b"ok")) == b"ko"
    await worker.stop()


@pytest.mark.parametrize("data", [b"die", b"confuse", b"babble"])
async def test_a_worker_that_ends_or_talks_nonsense_is_lost(data: bytes) -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)
    await worker.start()

    with pytest.raises(WorkerLostError):
        await worker.score(image(data))

    await worker.stop()


async def test_wait_tells_when_the_process_ends() -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)
    await worker.start()

    with pytest.raises(WorkerLostError):
        await worker.score(image(b"die"))

    assert await worker.wait() == 3


async def test_a_process_that_has_ended_is_lost_for_the_next_image_too() -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)
    await worker.start()
    with pytest.raises(WorkerLostError):
        await worker.score(image(b"die"))
    await worker.wait()

    with pytest.raises(WorkerLostError):
        await worker.score(image(b"abc"))

    await worker.stop()


async def test_a_worker_that_cannot_ever_start_says_why() -> None:
    worker = worker_running(CANNOT_START)

    with pytest.raises(WorkerStartError, match=r"^w\.safetensors: damaged$"):
        await worker.start()

    await worker.stop()


@pytest.mark.parametrize("script", ["raise SystemExit(1)", "print('starting', flush=True)"])
async def test_a_process_that_is_no_worker_is_lost_at_its_start(script: str) -> None:
    worker = worker_running(script)

    with pytest.raises(WorkerLostError):
        await worker.start()

    await worker.stop()


async def test_stopping_asks_politely_first() -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)
    await worker.start()

    await worker.stop()

    assert await worker.wait() == -signal.SIGTERM


async def test_stopping_ends_even_a_process_that_ignores_being_asked() -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)
    await worker.start()
    assert await worker.score(image(b"hang")) == b"hanging"

    await worker.stop()

    assert await worker.wait() == -signal.SIGKILL


async def test_stopping_what_never_started_does_nothing() -> None:
    await worker_running(SPEAKS_THE_PROTOCOL).stop()


async def test_a_worker_ends_by_itself_when_its_parent_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"""
import asyncio, sys
from service.dispatch.workers import WorkerProcess
from service.settings import Settings

async def main():
    worker = WorkerProcess(Settings(), [sys.executable, "-c", {SPEAKS_THE_PROTOCOL!r}])
    await worker.start()
    print(worker._process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
""",
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    worker_id = int(await parent.stdout.readline())

    parent.kill()
    await parent.wait()

    async with asyncio.timeout(10):
        while _runs(worker_id):
            await asyncio.sleep(0.02)


def _runs(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    # An orphan nobody has buried yet has ended all the same.
    with open(f"/proc/{process_id}/stat") as stat:  # noqa: PTH123
        return stat.read().split(") ")[1][0] != "Z"
