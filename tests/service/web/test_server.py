"""The real process around a real, tiny network: what an operator sees."""

import base64
import gzip
import io
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pictures import ASTRONAUT
from PIL import Image
from serving import Server, runs, serving, until


@pytest.fixture(scope="module")
def astronaut() -> str:
    """NASA's portrait of Eileen Collins, as line-wrapped base64."""
    return base64.encodebytes(ASTRONAUT.read_bytes()).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), tiny_weights) as server:
        until(lambda: server.ask("/") == 200)
        yield server


def assert_azures_schema(boxes: list[dict[str, Any]]) -> None:
    assert boxes
    assert [one["score"] for one in boxes] == sorted((b["score"] for b in boxes), reverse=True)
    for one in boxes:
        assert list(one) == ["box", "label", "score", "polygon"]
        assert list(one["box"]) == ["topX", "topY", "bottomX", "bottomY"]
        assert one["label"] in ("person", "cat")
        x = [value for ring in one["polygon"] for value in ring[::2]]
        y = [value for ring in one["polygon"] for value in ring[1::2]]
        assert all(len(ring) >= 6 and len(ring) % 2 == 0 for ring in one["polygon"])
        assert 0 <= min(x + y) <= max(x + y) <= 1
        assert [*one["box"].values()] == [min(x), min(y), max(x), max(y)]


def test_a_photo_gets_boxes_scores_and_polygons(server: Server, astronaut: str) -> None:
    response = server.score(astronaut)

    assert response.status_code == 200
    (result,) = response.json()
    assert list(result) == ["boxes"]
    assert_azures_schema(result["boxes"])


def test_several_photos_get_the_answers_each_gets_alone(server: Server, astronaut: str) -> None:
    buffer = io.BytesIO()
    Image.new("L", (300, 40)).save(buffer, "PNG")
    strip = base64.b64encode(buffer.getvalue()).decode()

    together = server.score(astronaut, strip, astronaut).json()

    alone = [server.score(one).json()[0] for one in (astronaut, strip, astronaut)]
    assert together == alone


def test_what_the_worker_cannot_decode_names_its_row(server: Server, astronaut: str) -> None:
    response = server.score(astronaut, astronaut[: len(astronaut) // 2 // 77 * 77])

    assert response.status_code == 400
    assert response.json() == {"message": "row 1: the image is truncated or damaged"}


def test_a_killed_worker_is_replaced_and_nobody_is_refused_meanwhile(
    server: Server, astronaut: str
) -> None:
    expected = server.score(astronaut).json()
    (worker,) = server.workers()

    os.kill(worker, signal.SIGKILL)
    health = server.ask("/")
    response = server.score(astronaut)

    assert health == 200
    assert response.status_code == 200
    assert response.json() == expected
    assert server.workers() != [worker]


def test_it_lives_before_it_is_ready_and_sigterm_ends_it_with_nothing_left(
    tmp_path: Path, tiny_weights: Path, astronaut: str
) -> None:
    with serving(tmp_path, tiny_weights) as server:
        until(lambda: server.ask("/livez") == 200)
        early = server.ask("/"), server.ask("/readyz"), server.score(astronaut).status_code
        until(lambda: server.ask("/readyz") == 200)
        ready = server.ask("/")
        workers = server.workers()

        server.process.terminate()

        assert server.process.wait(30) == 0
        assert early == (503, 503, 503)
        assert ready == 200
        assert len(workers) == 1
        assert not any(runs(worker) for worker in workers)
        assert server.errors.read_bytes() == b""
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        assert "worker_ready" in [line["event"] for line in lines]


def test_what_is_not_done_when_the_grace_ends_is_told_so(
    tmp_path: Path, tiny_weights: Path, astronaut: str
) -> None:
    with serving(tmp_path, tiny_weights, SOLOV2_GRACE_S="5") as server:
        until(lambda: server.ask("/readyz") == 200)
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as client:
            waiting = client.submit(server.score, astronaut)
            until(lambda: server.metric("solov2_inflight") == 1)

            server.process.terminate()
            response = waiting.result()

        assert response.status_code == 503
        assert response.json() == {"message": "the service is shutting down"}
        assert int(response.headers["retry-after"]) >= 1
        assert server.process.wait(6) == 0


def test_sigterm_while_the_model_loads_ends_it_at_once(tmp_path: Path, tiny_weights: Path) -> None:
    with serving(tmp_path, tiny_weights) as server:
        until(lambda: server.ask("/livez") == 200)
        workers = server.workers()

        server.process.terminate()

        assert server.process.wait(5) == 0
        assert not any(runs(worker) for worker in workers)


def last_words(server: Server) -> str:
    """What a process that gives up writes on standard error: exactly one line."""
    assert server.process.wait(60) == 1
    (line,) = server.errors.read_text().splitlines()
    return line


def test_a_port_in_use_ends_the_process_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with serving(tmp_path, tmp_path, SOLOV2_PORT=port) as server:
            line = last_words(server)

    assert line.startswith(f"solov2: cannot listen on 127.0.0.1:{port}: Address already in use")


def test_missing_weights_end_the_process_with_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing.safetensors"

    with serving(tmp_path, missing) as server:
        assert last_words(server) == f"solov2: {missing}: no such weights file"


def test_corrupt_weights_end_the_process_with_one_line_and_no_second_try(tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00 garbage")

    with serving(tmp_path, corrupt) as server:
        line = last_words(server)

    assert line.startswith(f"solov2: {corrupt}: ")
    assert "Traceback" not in server.log.read_text()
    assert "worker_failed_to_start" not in server.log.read_text()


class Collector:
    """Takes spans as OpenTelemetry's collector does."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


def test_a_request_is_traced_with_its_stages_and_without_its_image(
    tmp_path: Path, tiny_weights: Path, astronaut: str, collector: Collector
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with serving(
        tmp_path,
        tiny_weights,
        SOLOV2_TRACING="true",
        SOLOV2_DRAIN_DELAY_S="0",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
    ) as server:
        until(lambda: server.ask("/readyz") == 200)
        httpx.get(
            f"{server.url}/score",
            params={"input_data": '{"columns": ["image"], "data": ["secret"]}'},
            headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
        )
        server.process.terminate()
        assert server.process.wait(30) == 0

    names = {span.name for span in collector.spans}
    assert names == {"GET /score", "read", "parse", "images"}
    assert {span.trace_id.hex() for span in collector.spans} == {trace}
    assert "secret" not in str(collector.spans)
