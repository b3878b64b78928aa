import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from service.errors import BadImageError
from service.metrics import Metrics
from service.settings import Settings
from service.web.middleware import RequestMiddleware, RequestRecord

pytestmark = pytest.mark.anyio

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    scope["state"]["record"].images = 3
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("a bug")


async def ask(handler: Handler, path: str = "/score", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(RequestMiddleware(handler, Settings(), Metrics()))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.post(path, headers={k.replace("_", "-"): v for k, v in headers.items()})


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if hasattr(record, "fields")]


async def test_the_clients_request_id_comes_back() -> None:
    response = await ask(answers, x_request_id="my-id 7")

    assert response.headers["x-request-id"] == "my-id 7"


@pytest.mark.parametrize("headers", [{}, {"x_request_id": ""}], ids=["absent", "empty"])
async def test_a_request_without_an_id_gets_one(headers: dict[str, str]) -> None:
    first, second = [await ask(answers, **headers) for _ in range(2)]

    assert uuid.UUID(first.headers["x-request-id"]).version == 4
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_a_request_is_one_line_in_the_log_without_its_query(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    await ask(answers, "/score?sig=secret", x_request_id="7")

    (line,) = logged(caplog)
    assert line.pop("ms") >= 0
    assert line == {
        "request_id": "7",
        "method": "POST",
        "path": "/score",
        "status": 201,
        "reason": "ok",
        "images": 3,
        "bytes": 0,
        "stages_ms": {},
    }


async def test_a_bug_is_answered_without_detail_and_logged_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    response = await ask(fails, x_request_id="7")

    assert response.status_code == 500
    assert list(response.json()) == ["message"]
    assert "a bug" not in response.text
    assert response.headers["x-ms-run-function-failed"] == "False"
    assert response.headers["x-request-id"] == "7"
    (line,) = logged(caplog)
    assert (line["status"], line["reason"]) == (500, "bug")
    assert "RuntimeError: a bug" in caplog.text


async def test_an_error_of_the_service_is_answered_with_its_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        raise BadImageError("it is bad")

    caplog.set_level(logging.INFO)

    response = await ask(refuses)

    assert (response.status_code, response.json()) == (400, {"message": "it is bad"})
    assert logged(caplog)[0]["reason"] == "bad_image"


async def test_an_answer_that_breaks_off_is_not_followed_by_another() -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        await ask(breaks)


IDS = ("x-request-id", "x-ms-request-id", "x-ms-client-request-id")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"x_request_id": "a"}, ("a", "a", None)),
        ({"x_request_id": "a", "x_ms_client_request_id": "c"}, ("a", "c", "c")),
        ({"x_request_id": "a", "x_ms_request_id": "b"}, ("a", "b", "b")),
        (
            {"x_request_id": "a", "x_ms_request_id": "b", "x_ms_client_request_id": "c"},
            ("a", "b", "c"),
        ),
        ({"x_request_id": "a" * 100}, ("a" * 100, "a" * 100, None)),
    ],
    ids=["request", "client", "legacy", "all", "longest"],
)
async def test_ids_are_copied_by_azures_rules(
    sent: dict[str, str], expected: tuple[str | None, ...]
) -> None:
    headers = (await ask(answers, **sent)).headers

    assert tuple(headers.get(name) for name in IDS) == expected


@pytest.mark.parametrize(
    ("name", "message", "kept"),
    [
        ("x_request_id", "x-request-id must not exceed 100 characters", []),
        (
            "x_ms_request_id",
            "x-ms-request-id and x-ms-client-request-id must not exceed 100 characters",
            ["x-request-id"],
        ),
        (
            "x_ms_client_request_id",
            "x-ms-request-id and x-ms-client-request-id must not exceed 100 characters",
            ["x-request-id"],
        ),
    ],
)
async def test_an_id_of_over_100_characters_is_refused(
    name: str, message: str, kept: list[str]
) -> None:
    response = await ask(answers, **{name: "i" * 101})

    assert (response.status_code, response.json()) == (431, {"message": message})
    assert [name for name in IDS if name in response.headers] == kept
    assert response.headers["x-ms-run-function-failed"] == "False"


async def test_a_trace_id_comes_back() -> None:
    assert (await ask(answers, TraceId="office-7")).headers["traceid"] == "office-7"


async def test_the_server_tells_its_version_unless_that_is_switched_off() -> None:
    assert (await ask(answers)).headers["x-ms-server-version"].startswith("solov2/")

    silent = RequestMiddleware(answers, Settings(server_version_header=False), Metrics())
    transport = httpx.ASGITransport(silent)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        assert "x-ms-server-version" not in (await client.get("/")).headers


def test_a_record_keeps_how_long_each_stage_took() -> None:
    record = RequestRecord()

    with record.stage("read"):
        pass

    assert record.stages_ms["read"] >= 0


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz"])
async def test_probes_leave_no_line(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    await ask(answers, path)

    assert logged(caplog) == []


async def test_what_is_not_http_passes_untouched() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def nothing() -> Message:
        return {}

    async def nowhere(message: Message) -> None: ...

    await RequestMiddleware(app, Settings(), Metrics())({"type": "lifespan"}, nothing, nowhere)

    assert seen == [{"type": "lifespan"}]


async def test_a_path_that_does_not_exist_is_not_logged_in_full(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    await ask(answers, "/score/" + "A" * 1000)

    (line,) = logged(caplog)
    assert line["path"] == "/score/" + "A" * 33
