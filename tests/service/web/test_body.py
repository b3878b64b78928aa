import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from starlette.requests import Request

from service.errors import (
    BodyTooLargeError,
    ClientGoneError,
    TooManyBytesError,
    UnsupportedMediaTypeError,
)
from service.settings import Settings
from service.web.body import read_body, require_json
from service.web.budget import ByteBudget

pytestmark = pytest.mark.anyio


def request_with(*chunks: bytes, ends: bool = True, **headers: str) -> Request:
    """A request whose body arrives in pieces; without an end the client disconnects."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request"} if ends else {"type": "http.disconnect"})

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw}, receive)


async def read(request: Request, settings: Settings, in_all: int = 1000) -> bytearray:
    with ByteBudget(in_all).account() as account:
        return await read_body(request, settings, account)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=utf-8",
        " application/json ; x=y",
        "application/vnd.api+json",
    ],
)
def test_json_is_taken(content_type: str) -> None:
    require_json(request_with(content_type=content_type))


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/x-json",
        "image/jpeg",
        "application/+json",
        "application/json, text/plain",
        "multipart/form-data; boundary=application/json",
    ],
)
def test_anything_else_is_refused_in_azures_words(content_type: str) -> None:
    with pytest.raises(
        UnsupportedMediaTypeError, match=r"^Expects Content-Type to be application/json$"
    ):
        require_json(request_with(content_type=content_type))


def test_a_missing_content_type_is_refused() -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        require_json(request_with())


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x"])
def test_an_encoded_body_is_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="Content-Encoding is not supported"):
        require_json(request_with(content_type="application/json", content_encoding=encoding))


def test_an_encoding_that_changes_nothing_is_taken() -> None:
    require_json(request_with(content_type="application/json", content_encoding="Identity"))


async def test_a_body_in_pieces_is_put_together() -> None:
    assert await read(request_with(b"ab", b"", b"cd"), Settings()) == b"abcd"


async def test_a_body_that_declares_too_much_is_refused_unread() -> None:
    request = request_with(content_length="11")

    with pytest.raises(BodyTooLargeError, match="11 bytes, more than the limit of 10"):
        await read(request, Settings(max_body_bytes=10))


async def test_a_body_that_declares_nothing_is_counted_while_it_comes() -> None:
    request = request_with(b"123456", b"12345")

    with pytest.raises(BodyTooLargeError, match="more than the limit of 10 bytes"):
        await read(request, Settings(max_body_bytes=10))


async def test_a_body_at_the_limit_is_taken() -> None:
    request = request_with(b"123456", b"1234", content_length="10")

    assert await read(request, Settings(max_body_bytes=10)) == b"1234561234"


async def test_bodies_that_are_too_large_together_are_refused_for_now() -> None:
    with pytest.raises(TooManyBytesError):
        await read(request_with(b"123456", b"12345"), Settings(), in_all=10)


async def test_a_client_that_leaves_within_its_body_is_gone() -> None:
    with pytest.raises(ClientGoneError):
        await read(request_with(b"12", ends=False), Settings())


async def slowly(chunks: int) -> AsyncIterator[bytes]:
    for _ in range(chunks):
        yield b" "
        await asyncio.sleep(0.05)


async def test_a_body_that_trickles_in_times_out(serve_in_thread: Callable, dispatcher) -> None:
    with serve_in_thread(Settings(body_timeout_s=0.3), dispatcher) as url:
        async with httpx.AsyncClient() as client:
            answer = await client.post(
                f"{url}/score", content=slowly(10), headers={"content-type": "application/json"}
            )

    assert answer.status_code == 408
    assert answer.json() == {"message": "the body did not arrive within 0.3 s"}
    assert answer.headers["connection"] == "close"


async def test_who_sends_too_much_can_still_read_the_answer(
    serve_in_thread: Callable, dispatcher
) -> None:
    with serve_in_thread(Settings(max_body_bytes=1000), dispatcher) as url:
        async with httpx.AsyncClient() as client:
            answer = await client.post(
                f"{url}/score",
                content=b" " * 20_000_000,
                headers={"content-type": "application/json"},
            )
            next_answer = await client.get(f"{url}/livez")

    assert answer.status_code == 413
    assert answer.json() == {"message": "the body has 20000000 bytes, more than the limit of 1000"}
    assert next_answer.status_code == 200
