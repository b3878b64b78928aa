import base64
import email.utils
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from model.config import VARIANTS
from model.polygons import rings_to_mask
from model.preprocess import preprocess
from model.structures import ImageBatch, Instances
from service.client import Client, RefusedError, ScoreError
from service.settings import Settings
from service.worker.stages import Stages


@dataclass
class Reply:
    """What a server says; without a status it hangs up."""

    status: int | None = 200
    body: bytes = b'[{"boxes": []}]'
    headers: dict[str, str] = field(default_factory=dict)


class FakeService(ThreadingHTTPServer):
    """Gives one reply after the other, the last for ever, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies = [Reply()]
        self.requests: list[tuple[str, dict[str, object]]] = []
        self.headers: list[Message] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeService

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((self.path, json.loads(body)))
        self.server.headers.append(self.headers)
        replies = self.server.replies
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if reply.status is None:
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

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


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds slept, none of which pass."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.mark.parametrize("suffix", ["", "/", "/score", "/score/"])
def test_images_are_posted_to_score_as_azure_wants_them(server: FakeService, suffix: str) -> None:
    server.replies = [Reply(body=b'[{"boxes": []}, {"boxes": []}]')]

    with Client(server.url + suffix) as client:
        answers = client.score([b"one", b"two"])

    assert answers == [{"boxes": []}, {"boxes": []}]
    path, body = server.requests[0]
    rows = [base64.b64encode(image).decode() for image in (b"one", b"two")]
    assert path == "/score"
    assert body == {"input_data": {"columns": ["image"], "data": rows}}


def test_a_refusal_carries_the_servers_own_words(server: FakeService) -> None:
    server.replies = [Reply(400, b'{"message": "row 0: not an image"}')]

    with Client(server.url) as client, pytest.raises(RefusedError, match="400: row 0"):
        client.score([b"x"])


def test_a_foreign_servers_refusal_is_quoted(server: FakeService) -> None:
    server.replies = [Reply(500, b"<html>no such luck</html>")]

    with Client(server.url) as client, pytest.raises(ScoreError, match="500: <html>no such luck"):
        client.score([b"x"])

    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_named(server: FakeService) -> None:
    url = server.url
    server.server_close()

    with Client(url) as client, pytest.raises(ScoreError, match=f"{url}/score cannot be reached"):
        client.score([b"x"])


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again_after_as_long_as_the_server_asks_for(
    server: FakeService, waits: list[float], status: int
) -> None:
    server.replies = [Reply(status, headers={"retry-after": "7"}), Reply()]

    with Client(server.url) as client:
        assert client.score([b"x"]) == [{"boxes": []}]

    assert waits == [7]
    assert server.requests[0] == server.requests[1]


def test_a_retry_after_may_be_a_date(server: FakeService, waits: list[float]) -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    server.replies = [Reply(503, headers={"retry-after": date}), Reply()]

    with Client(server.url) as client:
        client.score([b"x"])

    assert waits == [pytest.approx(30, abs=2)]


@pytest.mark.parametrize("headers", [{}, {"retry-after": "soon"}, {"retry-after": "0"}])
def test_without_a_usable_retry_after_the_waits_double(
    server: FakeService, waits: list[float], headers: dict[str, str]
) -> None:
    server.replies = [*[Reply(429, headers=headers)] * 8, Reply()]

    with Client(server.url) as client:
        client.score([b"x"])

    longest = [0.5, 1, 2, 4, 8, 15, 15, 15]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))


def test_the_retries_are_bounded(server: FakeService, waits: list[float]) -> None:
    server.replies = [Reply(429, b'{"message": "too many images waiting"}')]

    with (
        Client(server.url, retries=3) as client,
        pytest.raises(ScoreError, match="429: too many images waiting") as raised,
    ):
        client.score([b"x"])

    assert len(server.requests) == 4
    assert not isinstance(raised.value, RefusedError)  # other images would fare no better


def test_no_try_begins_after_the_deadline(server: FakeService, waits: list[float]) -> None:
    server.replies = [Reply(503, b"{}", {"retry-after": "31"})]

    with (
        Client(server.url, deadline_s=30) as client,
        pytest.raises(ScoreError, match="503"),
    ):
        client.score([b"x"])

    assert len(server.requests) == 1
    assert waits == []


def test_a_connection_that_breaks_off_is_made_again(
    server: FakeService, waits: list[float]
) -> None:
    server.replies = [Reply(), Reply(None), Reply()]

    with Client(server.url) as client:
        assert client.score([b"x"]) == client.score([b"x"])

    assert len(waits) == 1


def test_a_server_that_never_answered_is_not_waited_for(
    server: FakeService, waits: list[float]
) -> None:
    server.replies = [Reply(None)]

    with Client(server.url) as client, pytest.raises(ScoreError, match="cannot be reached"):
        client.score([b"x"])

    assert waits == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_address_is_not_the_images_fault(server: FakeService, status: int) -> None:
    server.replies = [Reply(status, b"no")]

    with Client(server.url) as client, pytest.raises(ScoreError) as raised:
        client.score([b"x"])

    assert not isinstance(raised.value, RefusedError)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"[1]", b'[{"boxes": 1}]', b"<html>", b"3"])
def test_an_answer_of_another_form_is_an_error(server: FakeService, body: bytes) -> None:
    server.replies = [Reply(body=body)]

    with Client(server.url) as client, pytest.raises(ScoreError, match="something else"):
        client.score([b"x"])


def test_a_key_is_sent_as_azure_wants_it(server: FakeService) -> None:
    with Client(server.url, api_key="secret") as client:
        client.score([b"x"])

    assert server.headers[0]["authorization"] == "Bearer secret"


def test_without_a_key_none_is_sent(server: FakeService) -> None:
    with Client(server.url) as client:
        client.score([b"x"])

    assert "authorization" not in server.headers[0]


class ThreeFound:
    """Finds a ring-shaped, a two-part and a faint object in every picture of 64x48 pixels."""

    config = VARIANTS["mobile"]

    def __init__(self) -> None:
        self.masks = np.zeros((3, 48, 64), dtype=np.bool_)
        self.masks[0, 4:30, 4:30] = True
        self.masks[0, 12:22, 12:22] = False
        self.masks[1, 30:45, 34:60] = True
        self.masks[1, 2:6, 50:54] = True
        self.masks[2, 40:46, 2:8] = True

    def prepare(self, images: Sequence[np.ndarray]) -> ImageBatch:
        return preprocess(images, self.config.preprocess)

    def predict_batch(self, batch: ImageBatch) -> list[Instances]:
        scores, labels = np.array([0.9, 0.7, 0.5], np.float32), np.array([0, 1, 0])
        return [Instances.from_full_masks(scores, labels, self.masks) for _ in batch.geometries]


def test_the_notebooks_of_azure_draw_the_main_part_of_each_object_in_its_place(
    serve_in_thread: Any, stages_dispatcher: Any, photo: bytes
) -> None:
    predictor = ThreeFound()
    dispatcher = type(stages_dispatcher)()
    dispatcher.stages = Stages(predictor, Settings())
    with serve_in_thread(Settings(), dispatcher) as url, Client(url) as client:
        [answer] = client.score([photo])

    # Their way: best first, nothing below 0.6, the first ring alone, scaled by the picture.
    drawn = []
    for found in sorted(answer["boxes"], key=lambda one: one["score"], reverse=True):
        if found["score"] > 0.6:
            corners = np.array(found["polygon"][0]).reshape(-1, 2) * (64, 48)
            drawn.append((found["label"], rings_to_mask([corners], 48, 64)))

    main_parts = predictor.masks[:2].copy()
    main_parts[1, :6] = False
    assert [label for label, _ in drawn] == ["person", "cat"]
    assert np.array_equal([mask for _, mask in drawn], main_parts)
    assert [one["score"] for one in answer["boxes"]] == pytest.approx([0.9, 0.7, 0.5])
