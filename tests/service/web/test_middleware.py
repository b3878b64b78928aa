import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from service.web.middleware import RequestMiddleware

pytestmark = pytest.mark.anyio

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    scope["state"]["record"].images = 3
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("a bug")


async def ask(handler: Handler, path: str = "/score", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(RequestMiddleware(handler), raise_app_exceptions=False)
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
    }


async def test_a_bug_is_logged_as_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    await ask(fails)

    (line,) = logged(caplog)
    assert (line["status"], line["reason"]) == (500, "internal_error")


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

    await RequestMiddleware(app)({"type": "lifespan"}, nothing, nowhere)

    assert seen == [{"type": "lifespan"}]
