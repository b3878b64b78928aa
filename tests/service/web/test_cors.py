import httpx
import pytest
from starlette.types import Receive, Scope, Send

from service.web.cors import CORSMiddleware

pytestmark = pytest.mark.anyio

ORIGIN = "access-control-allow-origin"
BING, OFFICE = "https://www.bing.com", "https://www.office.com"


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})


async def headers_for(
    origins: tuple[str, ...], method: str = "POST", **headers: str
) -> httpx.Headers:
    transport = httpx.ASGITransport(CORSMiddleware(answers, origins))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await client.request(method, "/score", headers=sent)).headers


async def test_the_one_listed_origin_may_read_answers() -> None:
    headers = await headers_for((BING,), origin=BING)

    assert headers[ORIGIN] == BING
    assert "vary" not in headers


async def test_of_several_origins_the_one_that_asks_comes_back() -> None:
    headers = await headers_for((BING, OFFICE), origin=OFFICE)

    assert headers[ORIGIN] == OFFICE
    assert headers["vary"] == "Origin"


async def test_an_origin_that_is_not_listed_gets_no_header() -> None:
    headers = await headers_for((BING,), "OPTIONS", origin="https://evil.example")

    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("origins", "expected"), [((BING, OFFICE), BING), (("*",), "*")], ids=["list", "any"]
)
async def test_who_names_no_origin_is_told_the_first(
    origins: tuple[str, ...], expected: str
) -> None:
    assert (await headers_for(origins))[ORIGIN] == expected


async def test_a_star_allows_any_origin_by_its_name() -> None:
    headers = await headers_for(("*",), origin=OFFICE)

    assert (headers[ORIGIN], headers["vary"]) == (OFFICE, "Origin")


async def test_a_preflight_is_told_the_methods_and_the_headers_it_asked_for() -> None:
    headers = await headers_for(
        (BING,), "OPTIONS", origin=BING, access_control_request_headers="x-request-id, traceid"
    )

    assert headers["access-control-allow-methods"] == "GET, POST"
    assert headers["access-control-allow-headers"] == "x-request-id, traceid"
