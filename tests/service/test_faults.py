"""What clients see when workers are killed, hang or fail, and when too many of them come."""

import base64
import contextlib
import io
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import faulty_worker
import httpx
import orjson
import pytest
from PIL import Image
from serving import Server, runs, serving, until

WITH_FAULTY_WORKERS = f"""
import sys
from service.cli import app
from service.dispatch.workers import WorkerProcess
WorkerProcess.__init__.__defaults__ = ((sys.executable, "-P", {faulty_worker.__file__!r}),)
app(["serve"])
"""


def picture(width: int, grey: int = 90) -> str:
    """A noisy JPEG 40 pixels high, as base64."""
    buffer = io.BytesIO()
    Image.effect_noise((width, 40), grey).convert("RGB").save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Iterator[Server]:
    """Two workers that may fail, a queue of 12 images, and little patience."""
    with serving(
        tmp_path_factory.mktemp("server"),
        tiny_weights,
        WITH_FAULTY_WORKERS,
        SOLOV2_DEVICES="cpu,cpu",
        SOLOV2_WORKER_TIMEOUT_S="2",
        SOLOV2_SCORE_THRESHOLD="0.6",
        SOLOV2_MAX_QUEUE_IMAGES="12",
        SOLOV2_DRAIN_DELAY_S="0.3",
    ) as server:
        until(lambda: server.ask("/readyz") == 200)
        yield server


@pytest.fixture
def ready(server: Server) -> Server:
    until(lambda: server.ask("/readyz") == 200 and len(server.workers()) == 2)
    return server


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as clients:
        yield clients


def post(clients: ThreadPoolExecutor, server: Server, *images: str) -> list[Future[httpx.Response]]:
    """Each image in a request of its own, all at once."""
    return [clients.submit(server.score, image) for image in images]


def statuses(requests: list[Future[httpx.Response]]) -> list[int]:
    return [request.result().status_code for request in requests]


def pause(server: Server) -> list[int]:
    """Stop the workers where they are."""
    workers = server.workers()
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    return workers


def resume(workers: list[int]) -> None:
    """Let them go on; on a slow machine one may have been replaced meanwhile."""
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


def test_workers_killed_under_load_cost_no_request(
    ready: Server, clients: ThreadPoolExecutor
) -> None:
    photos = [picture(60), picture(50, 40)] * 4
    expected = [ready.score(photo).json() for photo in photos[:2]] * 4

    requests = post(clients, ready, *photos)
    for worker in ready.workers():
        os.kill(worker, signal.SIGKILL)

    assert set(statuses(requests)) == {200}
    assert [request.result().json() for request in requests] == expected


def test_a_worker_that_hangs_is_replaced_and_its_image_scored(
    ready: Server, clients: ThreadPoolExecutor
) -> None:
    before = pause(ready)

    requests = post(clients, ready, picture(60), picture(50))

    assert statuses(requests) == [200, 200]
    assert not any(runs(worker) for worker in before)


def test_an_image_that_ends_two_workers_is_the_one_that_fails(
    ready: Server, clients: ThreadPoolExecutor
) -> None:
    requests = post(clients, ready, picture(60), picture(faulty_worker.KILLS), picture(50))

    assert statuses(requests) == [200, 500, 200]
    assert requests[1].result().headers["x-ms-run-function-failed"] == "True"
    assert ready.ask("/") == 200


def test_an_image_whose_batch_raises_fails_alone(
    ready: Server, clients: ThreadPoolExecutor
) -> None:
    workers = pause(ready)  # so that batches form
    requests = post(clients, ready, *[picture(60)] * 4, picture(faulty_worker.RAISES))
    requests += post(clients, ready, *[picture(60)] * 3)
    time.sleep(0.2)
    resume(workers)

    assert statuses(requests) == [200, 200, 200, 200, 500, 200, 200, 200]
    assert ready.workers() == workers


def test_a_batch_too_large_for_the_memory_is_scored_in_parts(
    ready: Server, clients: ThreadPoolExecutor
) -> None:
    workers = pause(ready)
    requests = post(clients, ready, *[picture(60)] * 12)
    time.sleep(0.2)
    resume(workers)

    assert set(statuses(requests)) == {200}
    assert ready.metric("solov2_oom_total") >= 1
    assert ready.metric("solov2_batch_retries_total") >= 2
    assert ready.workers() == workers


def test_more_than_may_wait_are_refused_at_once_and_probes_never(
    ready: Server, clients: ThreadPoolExecutor
) -> None:
    workers = pause(ready)
    waiting = post(clients, ready, *[picture(60)] * 12)
    until(lambda: ready.metric("solov2_inflight") == 12)

    begun = time.monotonic()
    refused = ready.score(picture(60))
    probes = [ready.ask(path) for path in ("/", "/livez", "/readyz", "/metrics")]
    seconds = time.monotonic() - begun
    resume(workers)

    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert probes == [200] * 4
    assert seconds < 0.8
    assert set(statuses(waiting)) == {200}


def test_clients_that_hang_up_make_room_and_disturb_nobody(
    ready: Server, clients: ThreadPoolExecutor
) -> None:
    cancelled = ready.metric('solov2_cancelled_total{where="queue"}')
    workers = pause(ready)
    payload = orjson.dumps({"input_data": {"columns": ["image"], "data": [picture(60)] * 12}})
    port = int(ready.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as leaver:
        leaver.sendall(
            b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(payload), payload)
        )
        until(lambda: ready.metric("solov2_queue_bytes") > 0)
    until(lambda: ready.metric("solov2_queue_bytes") == 0)
    staying = post(clients, ready, *[picture(50)] * 8)
    until(lambda: ready.metric("solov2_inflight") == 8)
    resume(workers)

    assert set(statuses(staying)) == {200}
    assert ready.metric('solov2_cancelled_total{where="queue"}') > cancelled


def test_sigterm_under_load_finishes_what_was_taken(
    tmp_path: Path, tiny_weights: Path, clients: ThreadPoolExecutor
) -> None:
    with serving(tmp_path, tiny_weights, SOLOV2_DRAIN_DELAY_S="0.5") as server:
        until(lambda: server.ask("/readyz") == 200)
        workers = pause(server)
        requests = post(clients, server, *[picture(60)] * 8)
        until(lambda: server.metric("solov2_inflight") == 8)

        server.process.terminate()
        until(lambda: server.ask("/readyz") == 503)
        late = clients.submit(server.score, picture(50))
        until(lambda: server.metric("solov2_inflight") == 9)
        resume(workers)

        assert set(statuses(requests)) == {200}
        assert late.result().status_code == 200
        assert server.process.wait(20) == 0
        assert not any(runs(worker) for worker in workers)


def test_weights_that_vanish_end_the_process_once_a_worker_has_to_be_replaced(
    tmp_path: Path, tiny_weights: Path
) -> None:
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(tiny_weights.read_bytes())
    with serving(tmp_path, weights) as server:
        until(lambda: server.ask("/readyz") == 200)

        weights.unlink()
        os.kill(server.workers()[0], signal.SIGKILL)

        assert server.process.wait(30) == 1
        assert server.errors.read_text().startswith(f"solov2: {weights}: ")
