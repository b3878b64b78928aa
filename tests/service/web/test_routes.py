import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.dispatch.dispatcher import LOADING, Health
from service.errors import (
    BadImageError,
    QueueFullError,
    ScoringError,
    ScoringTimeoutError,
    ServiceError,
    UnavailableError,
)
from service.protocol import EncodedImage
from service.settings import Settings
from service.web.app import create_app

JSON = {"content-type": "application/json"}


@pytest.fixture
def client(dispatcher) -> Iterator[TestClient]:
    with TestClient(
        create_app(Settings(max_images_per_request=3), dispatcher), raise_server_exceptions=False
    ) as client:
        yield client


def test_every_image_gets_its_answer_in_the_order_of_the_rows(
    client: TestClient, photo: bytes, encode: Callable[..., bytes], body: Callable[..., Any]
) -> None:
    from_png = encode(Image.new("RGB", (5, 9)), "PNG")

    response = client.post("/score", json=body(photo, from_png, photo))

    assert response.status_code == 200
    assert response.json() == [[64, 48], [5, 9], [64, 48]]
    assert response.headers["content-type"] == "application/json"


def test_an_answer_carries_azures_headers(
    client: TestClient, photo: bytes, body: Callable[..., Any]
) -> None:
    headers = client.post("/score", json=body(photo), headers={"x-request-id": "abc"}).headers

    assert headers["x-request-id"] == "abc"
    assert headers["x-ms-run-function-failed"] == "False"
    whole, decimals = headers["x-ms-run-fn-exec-ms"].split(".")
    assert whole.isdecimal()
    assert len(decimals) == 3


@pytest.mark.parametrize(
    ("error", "status", "failed"),
    [
        (BadImageError("it is bad"), 400, "False"),
        (QueueFullError("full"), 429, "False"),
        (UnavailableError("loading"), 503, "False"),
        (ScoringTimeoutError(50), 500, "True"),
        (ScoringError(), 500, "True"),
        (RuntimeError("secret/path.py"), 500, "False"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_a_failure_has_its_status_and_says_whose_it_is(
    client: TestClient,
    dispatcher,
    photo: bytes,
    body: Callable[..., Any],
    error: Exception,
    status: int,
    failed: str,
) -> None:
    dispatcher.error = error

    response = client.post("/score", json=body(photo), headers={"x-request-id": "abc"})

    assert response.status_code == status
    assert list(response.json()) == ["message"]
    assert "secret" not in response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-ms-run-function-failed"] == failed
    assert response.headers["x-request-id"] == "abc"
    assert "x-ms-run-fn-exec-ms" not in response.headers


def test_the_messages_of_failed_scoring_are_azures(
    client: TestClient, dispatcher, photo: bytes, body: Callable[..., Any]
) -> None:
    messages = []
    for error in (ScoringTimeoutError(50), ScoringError(), RuntimeError()):
        dispatcher.error = error
        messages.append(client.post("/score", json=body(photo)).json()["message"])

    assert messages == [
        "Scoring timeout after 50 ms",
        "An unexpected error occurred in scoring script. Check the logs for more info.",
        "An unexpected internal error occurred. Check the logs for more info.",
    ]


def test_a_client_that_is_refused_for_now_is_told_when_to_come_back(
    client: TestClient, dispatcher, photo: bytes, body: Callable[..., Any]
) -> None:
    dispatcher.error = QueueFullError("full")

    response = client.post("/score", json=body(photo))

    assert int(response.headers["retry-after"]) >= 1


def test_a_worker_that_refuses_an_image_is_quoted_with_the_row(
    client: TestClient, dispatcher, photo: bytes, body: Callable[..., Any]
) -> None:
    dispatcher.error = BadImageError("it is bad")

    assert client.post("/score", json=body(photo)).json() == {"message": "row 0: it is bad"}


def test_no_image_is_scored_when_one_of_them_is_bad(
    client: TestClient, dispatcher, photo: bytes, body: Callable[..., Any]
) -> None:
    response = client.post("/score", json=body(photo, b"no image"))

    assert response.json()["message"].startswith("row 1: not a JPEG")
    assert dispatcher.scored == []


def test_more_images_than_the_limit_are_refused(
    client: TestClient, photo: bytes, body: Callable[..., Any]
) -> None:
    response = client.post("/score", json=body(*[photo] * 4))

    assert response.status_code == 400
    assert response.json() == {
        "message": "input_data.data: 4 images, more than the limit of 3 a request"
    }


def test_the_content_type_is_looked_at_before_the_body(client: TestClient) -> None:
    response = client.post("/score", content=b"", headers={"content-type": "text/plain"})

    assert response.status_code == 415
    assert response.json() == {"message": "Expects Content-Type to be application/json"}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "HEAD"])
def test_the_method_is_looked_at_first(client: TestClient, method: str) -> None:
    response = client.request(method, "/score", headers={"content-type": "text/plain"})

    assert response.status_code == 405
    assert response.headers["x-ms-run-function-failed"] == "False"


def test_a_wrong_method_gets_azures_words(client: TestClient) -> None:
    assert client.delete("/score").json() == {
        "message": "The method is not allowed for the requested URL."
    }


@pytest.mark.parametrize("path", ["/score/", "/Score", "/docs", "/openapi.json", "/nothing"])
def test_any_other_path_is_not_found_and_not_redirected(client: TestClient, path: str) -> None:
    response = client.post(path, json={}, follow_redirects=False)

    assert response.status_code == 404
    assert response.json()["message"].startswith("The requested URL was not found on the server.")


def test_a_request_leaves_one_line_with_sizes_and_reason_and_no_image(
    client: TestClient, photo: bytes, body: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service")
    request = orjson.dumps(body(photo, photo))

    client.post("/score", content=request, headers=JSON)
    client.post("/score", content=orjson.dumps(body(b"no image")), headers=JSON)

    good, bad = [record.fields for record in caplog.records if record.msg == "request"]
    assert (good["status"], good["reason"]) == (200, "ok")
    assert (good["images"], good["bytes"]) == (2, len(request))
    assert (bad["status"], bad["reason"]) == (400, "bad_image")
    assert body(photo)["input_data"]["data"][0][:40] not in caplog.text


class TestHealth:
    def test_is_azures_word_once_the_model_is_warm(self, client: TestClient) -> None:
        response = client.get("/")

        assert (response.status_code, response.text) == (200, "Healthy")
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert "x-ms-run-function-failed" not in response.headers

    def test_answers_head_too(self, client: TestClient) -> None:
        assert client.head("/").status_code == 200

    @pytest.mark.parametrize("path", ["/", "/readyz"])
    def test_is_503_with_the_reason_until_then(
        self, client: TestClient, dispatcher, path: str
    ) -> None:
        dispatcher.reasons = Health(unhealthy=LOADING, unready=LOADING)

        response = client.get(path)

        assert response.status_code == 503
        assert response.json() == {"message": LOADING}

    def test_goes_on_while_no_new_clients_are_wanted(self, client: TestClient, dispatcher) -> None:
        dispatcher.reasons = Health(unready="the service is shutting down")

        assert client.get("/").status_code == 200
        assert client.get("/readyz").status_code == 503

    def test_readiness_follows(self, client: TestClient) -> None:
        assert client.get("/readyz").status_code == 200

    def test_liveness_does_not_wait_for_the_model(self, client: TestClient, dispatcher) -> None:
        dispatcher.reasons = Health(unhealthy=LOADING, unready=LOADING, refusing=LOADING)

        assert client.get("/livez").status_code == 200

    def test_a_dispatcher_that_stands_still_is_not_alive(
        self, client: TestClient, dispatcher
    ) -> None:
        dispatcher.reasons = Health(dead="the dispatcher has stopped")

        response = client.get("/livez")

        assert response.status_code == 503
        assert response.json() == {"message": "the dispatcher has stopped"}

    def test_images_are_refused_before_their_body_is_looked_at(
        self, client: TestClient, dispatcher
    ) -> None:
        dispatcher.reasons = Health(refusing=LOADING)

        response = client.post("/score", content=b"no JSON", headers=JSON)

        assert response.status_code == 503
        assert response.json() == {"message": LOADING}
        assert int(response.headers["retry-after"]) >= 1


class TestMetrics:
    def test_count_requests_by_code_and_reason_and_leave_probes_out(
        self, client: TestClient, photo: bytes, body: Callable[..., Any]
    ) -> None:
        client.get("/readyz")
        client.post("/score", json=body(photo))
        client.post("/score", json=body(b"no image"))

        response = client.get("/metrics")

        lines = response.text.splitlines()
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert 'solov2_requests_total{code="200",reason="ok"} 1.0' in lines
        assert 'solov2_requests_total{code="400",reason="bad_image"} 1.0' in lines
        assert "solov2_request_duration_seconds_count 2.0" in lines
        assert 'solov2_stage_duration_seconds_count{stage="parse"} 2.0' in lines
        assert "solov2_inflight 0.0" in lines

    @pytest.mark.parametrize(
        "error", [QueueFullError("full"), UnavailableError("failing"), ScoringTimeoutError(50)]
    )
    def test_count_what_was_refused_or_came_too_late(
        self,
        client: TestClient,
        dispatcher,
        photo: bytes,
        body: Callable[..., Any],
        error: ServiceError,
    ) -> None:
        dispatcher.error = error

        client.post("/score", json=body(photo))

        refused = f'solov2_rejected_total{{reason="{error.reason}"}} 1.0'
        assert refused in client.get("/metrics").text.splitlines()

    def test_are_hidden_where_a_setting_says_so(self, dispatcher) -> None:
        with TestClient(create_app(Settings(metrics=False), dispatcher)) as client:
            assert client.get("/metrics").status_code == 404


class EndlessDispatcher:
    """Never answers; tells when it begins and when it is no longer wanted."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cancelled = threading.Event()

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def retry_after_s(self) -> int:
        return 1

    def health(self) -> Health:
        return Health()

    def submit(self, images: Sequence[EncodedImage]) -> list[asyncio.Future[bytes]]:
        answers = [asyncio.get_running_loop().create_future() for _ in images]
        answers[0].add_done_callback(lambda answer: answer.cancelled() and self.cancelled.set())
        self.begun.set()
        return answers


def test_when_a_client_hangs_up_its_images_are_dropped(
    serve_in_thread: Callable, photo: bytes, body: Callable[..., Any]
) -> None:
    dispatcher = EndlessDispatcher()
    payload = orjson.dumps(body(photo))
    with serve_in_thread(Settings(), dispatcher) as url:
        port = int(url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(payload), payload)
            )
            assert dispatcher.begun.wait(5)

        assert dispatcher.cancelled.wait(5)


def bearer(text: str) -> dict[str, str]:
    return {"authorization": text}


@pytest.fixture
def guarded(dispatcher) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(api_key="s3cret"), dispatcher)) as client:
        yield client


@pytest.mark.parametrize("sent", ["Bearer s3cret", "bearer s3cret", "Bearer  s3cret "])
def test_who_has_the_key_is_answered(
    guarded: TestClient, photo: bytes, body: Callable[..., Any], sent: str
) -> None:
    assert guarded.post("/score", json=body(photo), headers=bearer(sent)).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("s3cret"),
        bearer("Bearer"),
        bearer("Bearer s3cre"),
        bearer("Bearer s3cret s3cret"),
        bearer("Basic s3cret"),
        bearer("Bearer s3cr\u00e9t"),
    ],
    ids=lambda headers: headers.get("authorization", "absent"),
)
def test_who_has_not_is_refused_before_the_body_is_looked_at(
    guarded: TestClient, dispatcher, method: str, headers: dict[str, str]
) -> None:
    encoded = {name: value.encode() for name, value in headers.items()}

    response = guarded.request(method, "/score", content=b"no JSON", headers=encoded)

    assert (response.status_code, list(response.json())) == (401, ["message"])
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-ms-run-function-failed"] == "False"
    assert response.headers["x-request-id"]
    assert dispatcher.scored == []


def test_a_key_may_have_any_letters(dispatcher, photo: bytes, body: Callable[..., Any]) -> None:
    with TestClient(create_app(Settings(api_key="schl\u00fcssel"), dispatcher)) as client:
        headers = {"authorization": "Bearer schl\u00fcssel".encode()}

        assert client.post("/score", json=body(photo), headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/metrics", "/swagger.json"])
def test_probes_metrics_and_description_ask_for_no_key(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 200


def test_a_browsers_question_about_origins_asks_for_no_key(guarded: TestClient) -> None:
    assert guarded.options("/score").status_code == 200
