import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from service.client import Client, RefusedError, ScoreError


class FakeService(ThreadingHTTPServer):
    """Answers what it is told to, and remembers the bodies it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.answer = 200, b"[]"
        self.requests: list[tuple[str, dict[str, object]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeService

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((self.path, json.loads(body)))
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FakeService]:
    with FakeService() as fake:
        thread = threading.Thread(target=fake.serve_forever, args=(0.01,))
        thread.start()
        yield fake
        fake.shutdown()
        thread.join()


@pytest.mark.parametrize("suffix", ["", "/", "/score", "/score/"])
def test_images_are_posted_to_score_as_azure_wants_them(server: FakeService, suffix: str) -> None:
    server.answer = b'[{"boxes": []}, {"boxes": []}]'

    with Client(server.url + suffix) as client:
        answers = client.score([b"one", b"two"])

    assert answers == [{"boxes": []}, {"boxes": []}]
    path, body = server.requests[0]
    rows = [base64.b64encode(image).decode() for image in (b"one", b"two")]
    assert path == "/score"
    assert body == {"input_data": {"columns": ["image"], "data": rows}}


def test_a_refusal_carries_the_servers_own_words(server: FakeService) -> None:
    server.status, server.answer = 400, b'{"message": "row 0: not an image"}'

    with Client(server.url) as client, pytest.raises(RefusedError, match="400: row 0"):
        client.score([b"x"])


def test_a_foreign_servers_refusal_is_quoted(server: FakeService) -> None:
    server.status, server.answer = 502, b"<html>bad gateway</html>"

    with Client(server.url) as client, pytest.raises(ScoreError, match="502: <html>bad gateway"):
        client.score([b"x"])


def test_a_server_that_is_not_there_is_named(server: FakeService) -> None:
    url = server.url
    server.server_close()

    with Client(url) as client, pytest.raises(ScoreError, match=f"{url}/score cannot be reached"):
        client.score([b"x"])
