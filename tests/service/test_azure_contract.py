"""What a client of Azure's own server relies on, over a real socket to the worker's pipeline."""

import base64
import gzip
import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from PIL import Image

from service.settings import Settings

NOT_FOUND = "The requested URL was not found on the server."
NOT_ALLOWED = "The method is not allowed for the requested URL."
UNDECODABLE = "POST body could not be decoded as JSON: "
NO_JSON_TYPE = "Expects Content-Type to be application/json"
TYPE = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def url(serve_in_thread: Callable, stages_dispatcher) -> Iterator[str]:
    with serve_in_thread(Settings(), stages_dispatcher) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture
def row(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


def table(*rows: object, **fields: Any) -> dict[str, Any]:
    return {"columns": ["image"], "index": [*range(len(rows))], "data": [*rows]} | fields


@dataclass
class Case:
    """A request that is refused, and how its answer begins."""

    status: int
    message: str
    method: str = "POST"
    path: str = "/score"
    content: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=lambda: TYPE)


def asks(document: object) -> bytes:
    return json.dumps(document).encode()


REFUSED = {
    "empty body": Case(400, "POST body is empty. Expecting a JSON dictionary.", content=b""),
    "malformed JSON": Case(400, UNDECODABLE, content=b"{'a': 1}"),
    "half a JSON": Case(400, UNDECODABLE, content=b'{"input_data": {"columns": ["ima'),
    "invalid UTF-8": Case(400, UNDECODABLE, content=b'{"a": "\xff"}'),
    "a list": Case(400, "POST body should be a JSON dictionary.", content=b"[]"),
    "a number": Case(400, "POST body should be a JSON dictionary.", content=b"1"),
    "no input_data": Case(
        400, "A value is not provided for the 'input_data' parameter.", content=b'{"data": []}'
    ),
    "no content type": Case(415, NO_JSON_TYPE, headers={}),
    "text": Case(415, NO_JSON_TYPE, headers={"content-type": "text/plain"}),
    "a form": Case(
        415, NO_JSON_TYPE, headers={"content-type": "application/x-www-form-urlencoded"}
    ),
    "gzip": Case(
        415,
        "Content-Encoding is not supported",
        content=gzip.compress(b"{}"),
        headers=TYPE | {"content-encoding": "gzip"},
    ),
    "nested absurdly": Case(
        400, "POST body is nested", content=b'{"a":' + b"[" * 500 + b"]" * 500 + b"}"
    ),
    "long request id": Case(
        431, "x-request-id must not exceed 100", headers=TYPE | {"x-request-id": "i" * 101}
    ),
    "long client id": Case(
        431,
        "x-ms-request-id and x-ms-client-request-id must not exceed 100",
        headers=TYPE | {"x-ms-client-request-id": "i" * 101},
    ),
    "long id before type": Case(431, "x-request-id", headers={"x-request-id": "i" * 101}),
    "type before body": Case(415, NO_JSON_TYPE, content=b"", headers={}),
    "PUT": Case(405, NOT_ALLOWED, "PUT", headers={}),
    "PATCH": Case(405, NOT_ALLOWED, "PATCH"),
    "DELETE": Case(405, NOT_ALLOWED, "DELETE"),
    "POST to health": Case(405, NOT_ALLOWED, path="/"),
    "POST to swagger": Case(405, NOT_ALLOWED, path="/swagger.json"),
    "trailing slash": Case(404, NOT_FOUND, path="/score/"),
    "another case": Case(404, NOT_FOUND, path="/Score"),
    "docs": Case(404, NOT_FOUND, "GET", "/docs"),
    "openapi": Case(404, NOT_FOUND, "GET", "/openapi.json"),
    "health": Case(404, NOT_FOUND, "GET", "/health"),
    "no such swagger": Case(
        404,
        "Swagger version [4] is not valid. Supported versions: [2, 3, 3.1].",
        "GET",
        "/swagger.json?version=4",
    ),
    "no rows": Case(400, "input_data.data: no rows", content=asks({"input_data": table()})),
    "another column": Case(
        400, "input_data.columns: ", content=asks({"input_data": table("a", columns=["img"])})
    ),
    "index of another length": Case(
        400, "input_data.index: ", content=asks({"input_data": table("a", index=[])})
    ),
    "unknown key": Case(
        400, "input_data: unknown key", content=asks({"input_data": table("a", more=1)})
    ),
    "wide row": Case(
        400, "row 0: 2 values for 1 columns", content=asks({"input_data": table(["a", "b"])})
    ),
    "a number as image": Case(400, "row 0: expected", content=asks({"input_data": table(7)})),
    "null as image": Case(400, "row 0: expected", content=asks({"input_data": table(None)})),
    "no base64": Case(400, "row 0: not a base64", content=asks({"input_data": table("!")})),
    "a file path": Case(400, "row 0: ", content=asks({"input_data": table("file:///etc/passwd")})),
    "params of another type": Case(
        400, "params", content=asks({"input_data": table("a"), "params": [1]})
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_request_gets_its_status_and_message(client: httpx.Client, case: Case) -> None:
    answer = client.request(case.method, case.path, content=case.content, headers=case.headers)

    assert answer.status_code == case.status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-ms-run-function-failed"] == "False"
    assert list(answer.json()) == ["message"]
    assert answer.json()["message"].startswith(case.message)


def test_head_is_no_method_of_score(client: httpx.Client) -> None:
    assert client.head("/score").status_code == 405


ENCODERS: dict[str, Callable[[str], bytes]] = {
    "UTF-8": str.encode,
    "UTF-8 with mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without mark": lambda text: text.encode("utf-16-le"),
}


@pytest.mark.parametrize("encode_text", ENCODERS.values(), ids=ENCODERS.keys())
@pytest.mark.parametrize("content_type", ["application/json", "application/x+json; charset=utf-8"])
def test_json_is_read_in_every_encoding_and_type(
    client: httpx.Client, row: str, encode_text: Callable[[str], bytes], content_type: str
) -> None:
    content = encode_text(json.dumps({"input_data": table(row)}))

    answer = client.post("/score", content=content, headers={"content-type": content_type})

    assert answer.status_code == 200
    assert answer.json()[0]["boxes"][0]["label"] == "person"


def test_the_answer_is_a_list_of_azures_objects(client: httpx.Client, row: str) -> None:
    answer = client.post("/score", json={"input_data": table(row, row)})

    assert answer.headers["content-type"] == "application/json"
    assert len(answer.json()) == 2
    [found] = answer.json()[1]["boxes"]
    assert list(found) == ["box", "label", "score", "polygon"]
    assert list(found["box"]) == ["topX", "topY", "bottomX", "bottomY"]
    assert found["box"] == {"topX": 0.25, "topY": 0.25, "bottomX": 0.75, "bottomY": 0.75}
    assert found["score"] == 0.8999999761581421
    assert [len(ring) for ring in found["polygon"]] == [8]


def test_a_scored_request_says_so_in_its_headers(client: httpx.Client, row: str) -> None:
    headers = client.post(
        "/score",
        json={"input_data": table(row)},
        headers={"x-request-id": "r", "x-ms-client-request-id": "c", "TraceId": "t"},
    ).headers

    ids = ("x-request-id", "x-ms-client-request-id", "x-ms-request-id", "traceid")
    assert [headers[name] for name in ids] == ["r", "c", "c", "t"]
    assert headers["x-ms-run-function-failed"] == "False"
    assert re.fullmatch(r"\d+\.\d{3}", headers["x-ms-run-fn-exec-ms"])
    assert headers["x-ms-server-version"].startswith("solov2/")


def test_score_can_be_asked_with_get(client: httpx.Client, row: str) -> None:
    query = urlencode({"input_data": json.dumps(table(row)), "more": "ignored"})

    answer = client.get(f"/score?{query}")

    assert answer.status_code == 200
    assert answer.json()[0]["boxes"][0]["label"] == "person"


def test_get_without_the_table_is_told_what_is_missing(client: httpx.Client) -> None:
    answer = client.get("/score")

    assert answer.status_code == 400
    assert answer.json() == {"message": "A value is not provided for the 'input_data' parameter."}


def test_options_of_score_are_empty(client: httpx.Client) -> None:
    answer = client.options("/score")

    assert (answer.status_code, answer.content) == (200, b"")


def test_health_answers_get_head_and_options(client: httpx.Client) -> None:
    get, head, options = client.get("/"), client.head("/"), client.options("/")

    assert (get.status_code, get.text) == (200, "Healthy")
    assert get.headers["content-type"] == "text/html; charset=utf-8"
    assert "x-ms-run-function-failed" not in get.headers
    assert (head.status_code, head.content) == (200, b"")
    assert (options.status_code, options.headers["allow"]) == (200, "HEAD, OPTIONS, GET")


def test_swagger_is_version_2_unless_asked(client: httpx.Client) -> None:
    answer = client.get("/swagger.json")

    assert answer.json()["swagger"] == "2.0"
    assert answer.headers["x-ms-run-function-failed"] == "False"
    assert client.get("/swagger.json?version=3.1").json()["openapi"] == "3.1.0"


def test_a_chunked_upload_is_read(client: httpx.Client, row: str) -> None:
    content = json.dumps({"input_data": table(row)}).encode()

    answer = client.post("/score", content=iter([content[:50], content[50:]]), headers=TYPE)

    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert answer.status_code == 200


def test_who_expects_to_be_asked_for_the_body_is_asked(url: str, row: str) -> None:
    content = json.dumps({"input_data": table(row)}).encode()
    head = (
        b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(content)
    )
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as connection:
        connection.sendall(head)
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(content)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_what_azure_ignores_is_ignored(client: httpx.Client, row: str) -> None:
    headers = {
        "accept": "text/csv",
        "authorization": "Bearer key",
        "azureml-model-deployment": "blue",
    }

    answer = client.post("/score", json={"input_data": table(row), "extra": 1}, headers=headers)

    assert answer.status_code == 200


def test_a_large_answer_comes_compressed_to_who_takes_that(
    client: httpx.Client, encode: Callable[..., bytes]
) -> None:
    small = base64.b64encode(encode(Image.new("L", (1, 1)), "PNG")).decode()
    request = {"input_data": table(*[small] * 128)}

    plain = client.post("/score", json=request, headers={"accept-encoding": "identity"})
    packed = client.post("/score", json=request, headers={"accept-encoding": "gzip"})

    assert "content-encoding" not in plain.headers
    assert packed.json() == plain.json()


@pytest.mark.parametrize(
    ("origin", "expected"), [("https://a.example", "https://a.example"), ("https://c", None)]
)
def test_listed_origins_may_read_every_answer(
    serve_in_thread: Callable, stages_dispatcher, origin: str, expected: str | None
) -> None:
    settings = Settings(cors_origins="https://a.example, https://b.example")
    with serve_in_thread(settings, stages_dispatcher) as url:
        good = httpx.get(f"{url}/", headers={"origin": origin})
        bad = httpx.post(f"{url}/score", headers={"origin": origin})
        preflight = httpx.options(f"{url}/score", headers={"origin": origin})

    assert bad.status_code == 415
    for answer in (good, bad, preflight):
        assert answer.headers.get("access-control-allow-origin") == expected


def test_azures_own_variables_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "SERVICE_NAME": "photos",
        "SERVICE_VERSION": "7",
        "SERVICE_PATH_PREFIX": "deep",
        "SERVER_VERSION_LOG_RESPONSE_ENABLED": "false",
        "AML_CORS_ORIGINS": "https://a, https://b",
        "SCORING_TIMEOUT_MS": "1234",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    settings = Settings.load()

    assert (settings.service_name, settings.service_version) == ("photos", "7")
    assert settings.service_path_prefix == "deep"
    assert settings.server_version_header is False
    assert settings.cors_origins == ("https://a", "https://b")
    assert settings.scoring_timeout_ms == 1234


@pytest.mark.parametrize(("value", "shown"), [("true", True), ("True", True), ("yes", False)])
def test_the_version_is_shown_for_true_alone(
    monkeypatch: pytest.MonkeyPatch, value: str, shown: bool
) -> None:
    monkeypatch.setenv("SERVER_VERSION_LOG_RESPONSE_ENABLED", value)

    assert Settings.load().server_version_header is shown


def test_our_own_variables_win_over_azures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_NAME", "azures")
    monkeypatch.setenv("SOLOV2_SERVICE_NAME", "ours")

    assert Settings.load().service_name == "ours"
