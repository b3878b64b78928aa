import asyncio
import os
import signal
import sys

import orjson
import pytest

from service.dispatch.workers import WorkerLostError, WorkerProcess, WorkerStartError
from service.protocol import Frame, Kind, WorkerStart

pytestmark = pytest.mark.anyio

BURIED = 255  # asyncio's own loop, where killing a process found it dead before its watcher did
START = WorkerStart("{}", "cpu", workers=3)
SPEAKS_THE_PROTOCOL = """
import os, sys, time
from service.protocol import Frame, Kind, WorkerInfo, receive_frame, send_frame

source, sink = sys.stdin.buffer, sys.stdout.buffer
start = receive_frame(source).payload
send_frame(sink, Frame(Kind.READY, 0, WorkerInfo("cpu", ["cpu"], 4, 800, 1333).to_json()))
while (frame := receive_frame(source)) is not None:
    match frame.payload:
        case b"start":
            send_frame(sink, Frame(Kind.RESULT, frame.job, start))
        case b"babble":
            sink.write(bytes(5) + b"garbage"); sink.flush()
        case b"die":
            os._exit(3)
        case b"hang":
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            send_frame(sink, Frame(Kind.STARTED))
            time.sleep(60)
        case other:
            send_frame(sink, Frame(Kind(frame.kind + 5), frame.job, other[::-1]))
"""
CANNOT_START = """
import sys
from service.protocol import Frame, Kind, receive_frame, send_frame
receive_frame(sys.stdin.buffer)
send_frame(sys.stdout.buffer, Frame(Kind.FATAL, 0, b"w.safetensors: damaged"))
"""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """The loop the service runs on, too: it treats pipes of its own way."""
    return "asyncio", {"use_uvloop": request.param}


def worker_running(script: str) -> WorkerProcess:
    return WorkerProcess(START, [sys.executable, "-c", script])


def image(data: bytes, job: int = 0) -> Frame:
    return Frame(Kind.IMAGE, job, data)


async def test_frames_go_in_and_come_out_whatever_their_size() -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)
    await worker.start()

    for job, data in enumerate((b"abc", b"", b"xy" * 500_000)):
        worker.send(image(data, job))
    answers = [await worker.receive() for _ in range(3)]

    await worker.stop()
    assert answers == [
        Frame(Kind.RESULT, 0, b"cba"),
        Frame(Kind.RESULT, 1, b""),
        Frame(Kind.RESULT, 2, b"yx" * 500_000),
    ]


async def test_the_worker_is_told_what_to_be_and_tells_what_it_has_become() -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)

    info = await worker.start()
    worker.send(image(b"start"))
    received = await worker.receive()

    await worker.stop()
    assert (info.device, info.max_batch_size) == ("cpu", 4)
    assert WorkerStart(**orjson.loads(received.payload)) == START


@pytest.mark.parametrize("data", [b"die", b"babble"])
async def test_a_worker_that_ends_or_talks_nonsense_is_lost(data: bytes) -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)
    await worker.start()
    worker.send(image(data))

    with pytest.raises(WorkerLostError):
        await worker.receive()

    await worker.stop()


async def test_a_process_that_has_ended_can_be_sent_to_and_stays_lost() -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)
    await worker.start()
    worker.send(image(b"die"))
    with pytest.raises(WorkerLostError):
        await worker.receive()

    for _ in range(3):
        worker.send(image(b"abc" * 100_000))
        with pytest.raises(WorkerLostError):
            await worker.receive()

    assert await worker.stop() in (3, BURIED)


async def test_a_killed_worker_is_lost() -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)
    await worker.start()

    worker.kill()

    with pytest.raises(WorkerLostError):
        await worker.receive()
    assert await worker.stop() in (-signal.SIGKILL, BURIED)


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


async def test_stopping_ends_even_a_process_that_ignores_being_asked() -> None:
    worker = worker_running(SPEAKS_THE_PROTOCOL)
    await worker.start()
    worker.send(image(b"hang"))
    assert (await worker.receive()).kind is Kind.STARTED

    assert await worker.stop() == -signal.SIGKILL


async def test_stopping_and_killing_what_has_ended_or_never_started_does_nothing() -> None:
    never, ended = worker_running(SPEAKS_THE_PROTOCOL), worker_running("")
    with pytest.raises(WorkerLostError):
        await ended.start()
    await ended.stop()

    for worker in (never, ended):
        worker.kill()
    assert await never.stop() is None
    await ended.stop()


async def test_what_never_started_is_lost() -> None:
    with pytest.raises(WorkerLostError):
        await worker_running(SPEAKS_THE_PROTOCOL).receive()


async def test_a_worker_ends_by_itself_when_its_parent_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"""
import asyncio, sys
from service.dispatch.workers import WorkerProcess
from service.protocol import WorkerStart

async def main():
    start = WorkerStart("", "cpu", 1)
    worker = WorkerProcess(start, [sys.executable, "-c", {SPEAKS_THE_PROTOCOL!r}])
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
