import asyncio
import itertools
import json
import logging
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import certifi
import httpcore
import pytest

from service.errors import BadImageError, FetchError, ServiceError, UrlRefusedError
from service.logs import JsonFormatter
from service.settings import Settings, SettingsError
from service.web import fetch
from service.web.fetch import Fetcher, Resolve, is_allowed

pytestmark = pytest.mark.anyio

MESSAGE = "the image could not be fetched from its URL"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage"
PUBLIC, OTHER_PUBLIC = "93.184.216.34", "2606:4700::6810:84e5"

Answer = Callable[[asyncio.StreamWriter, str], Awaitable[None]]


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


class Server:
    """What a test's server was asked, and by how many connections."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[str] = []
        self.connections = 0
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    def url(self, path: str = "/", host: str = "photos.example", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def serve(
    answer: Answer | bytes | dict[str, bytes], tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """A server that gives each path its answer, and leaves the closing to the client."""
    server = Server()
    connections: set[asyncio.Task[Any]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                server.requests.append(head)
                server.asked.set()
                path = head.split(" ")[1]
                if callable(answer):
                    await answer(writer, path)
                else:
                    writer.write(answer[path] if isinstance(answer, dict) else answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            server.left.set()
        except asyncio.CancelledError:
            pass  # the end of the test; asyncio would log it as an error
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


class FakeStream(httpcore.AsyncMockStream):
    def __init__(self, network: "FakeNetwork") -> None:
        super().__init__([network.answer])
        self.network = network

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.network.read_sizes.append(max_bytes)
        return await super().read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.network.written += buffer

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.network.names_verified.append(server_hostname)
        await self.network.handshake.wait()
        return self

    async def aclose(self) -> None:
        self.network.closed += 1


class FakeNetwork(httpcore.AsyncNetworkBackend):
    """The internet: any address gives the same answer, but for those nobody is at."""

    def __init__(
        self,
        answer: bytes = OK,
        dead: Iterable[str] = (),
        death: type[Exception] = httpcore.ConnectError,
    ) -> None:
        self.answer = answer
        self.dead = dead
        self.death = death
        self.dialled: list[str] = []
        self.timeouts: list[float | None] = []
        self.read_sizes: list[int] = []
        self.written = b""
        self.names_verified: list[str | None] = []
        self.handshake = asyncio.Event()
        self.handshake.set()
        self.closed = 0

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *_: object, **__: object
    ) -> httpcore.AsyncNetworkStream:
        self.dialled.append(host)
        self.timeouts.append(timeout)
        if host in self.dead:
            raise self.death("nobody there")
        return FakeStream(self)


def names(**hosts: str | list[str]) -> Resolve:
    """A name server for ``<name>.example``; whatever it does not know is here."""

    async def resolve(host: str, port: int) -> list[str]:
        found = hosts.get(host.removesuffix(".example"), "127.0.0.1")
        return [found] if isinstance(found, str) else found

    return resolve


def here(**settings: Any) -> Fetcher:
    """Reaches this machine, where the test's servers are, by any name."""
    return Fetcher(Settings(url_allow_private=True, **settings), names())


async def get(fetcher: Fetcher, url: str) -> bytes:
    return await fetcher.fetch(url, hold=lambda size: None)


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(JsonFormatter().format(record) for record in caplog.records)


@pytest.fixture(autouse=True)
def log_as_the_server_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


# What a download is


async def test_an_image_is_downloaded() -> None:
    async with serve({"/a.jpg?x=1": OK}) as server:
        data = await get(here(), server.url("/a.jpg?x=1#part"))

    assert data == b"image"
    assert f"host: photos.example:{server.port}\r\n" in server.requests[0].lower()
    assert "accept-encoding: identity\r\n" in server.requests[0].lower()


async def test_what_arrives_is_held_piece_by_piece() -> None:
    held: list[int] = []

    async def two_pieces(writer: asyncio.StreamWriter, path: str) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"3\r\nima\r\n2\r\nge\r\n0\r\n\r\n")

    async with serve(two_pieces) as server:
        data = await here().fetch(server.url(), hold=held.append)

    assert data == b"image"
    assert held == [3, 2]


async def test_who_holds_can_end_the_download() -> None:
    def full(size: int) -> None:
        raise ServiceError("full")

    async with serve(OK[:-1]) as server:
        with pytest.raises(ServiceError, match="full"):
            await here().fetch(server.url(), hold=full)
        await server.left.wait()


async def test_two_downloads_share_neither_connection_nor_cookies() -> None:
    greedy = OK.replace(b"\r\n", b"\r\nSet-Cookie: a=b; Path=/\r\nConnection: keep-alive\r\n", 1)
    async with serve(greedy) as server:
        fetcher = here()
        for _ in range(2):
            await get(fetcher, server.url())

    assert server.connections == 2
    assert "cookie" not in server.requests[1].lower()


@pytest.mark.parametrize(("cap", "overlap"), [(32, True), (1, False)])
async def test_downloads_overlap_up_to_a_number(
    cap: int, overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_DOWNLOADS", cap)
    both = asyncio.Barrier(2)
    overlapped = []

    async def wait_for_the_other(writer: asyncio.StreamWriter, path: str) -> None:
        with suppress(TimeoutError, asyncio.BrokenBarrierError):
            async with asyncio.timeout(None if overlap else 0.1):
                await both.wait()
            overlapped.append(path)
        writer.write(OK)

    async with serve(wait_for_the_other) as server:
        fetcher = here()
        await asyncio.gather(get(fetcher, server.url("/a")), get(fetcher, server.url("/b")))

    assert bool(overlapped) == overlap


async def test_waiting_for_other_downloads_counts_as_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_DOWNLOADS", 0)

    with pytest.raises(FetchError):
        await get(here(url_timeout_s=0.05), "http://photos.example/")


async def say_nothing(writer: asyncio.StreamWriter, path: str) -> None:
    """And so notice that the client leaves."""


async def test_a_download_that_is_cancelled_closes_its_connection() -> None:
    async with serve(say_nothing) as server:
        task = asyncio.create_task(get(here(), server.url()))
        await server.asked.wait()

        task.cancel()
        await server.left.wait()

        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_handshake_that_is_given_up_closes_its_connection() -> None:
    network = FakeNetwork()
    network.handshake.clear()

    with pytest.raises(FetchError):
        await get(
            Fetcher(Settings(url_timeout_s=0.05), names(a=PUBLIC), network), "https://a.example/"
        )

    assert network.closed == 1


async def test_closing_ends_downloads_that_still_run() -> None:
    async with serve(say_nothing) as server:
        fetcher = here()
        task = asyncio.create_task(get(fetcher, server.url()))
        await server.asked.wait()

        await fetcher.aclose()
        async with asyncio.timeout(5):
            await server.left.wait()

        with pytest.raises(FetchError):
            await task


async def test_closing_leaves_downloads_alone_that_have_ended() -> None:
    network = FakeNetwork()
    fetcher = Fetcher(Settings(), names(a=PUBLIC), network)
    await get(fetcher, "http://a.example/")
    closed = network.closed

    await fetcher.aclose()

    assert network.closed == closed


# Bounds


async def test_an_answer_that_trickles_for_ever_ends_at_the_deadline() -> None:
    async def trickle(writer: asyncio.StreamWriter, path: str) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.01)
        raise ConnectionError

    async with serve(trickle) as server:
        with pytest.raises(FetchError) as caught:
            await get(here(url_timeout_s=0.1), server.url())
        await server.left.wait()

    assert str(caught.value) == MESSAGE


async def test_a_look_up_counts_as_time() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(FetchError):
        await get(Fetcher(Settings(url_timeout_s=0.05), never), "http://photos.example/")


async def test_a_look_up_that_takes_too_long_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered, ended = threading.Event(), threading.Event()

    def look_up(*_: object, **__: object) -> None:
        answered.wait(5)
        ended.set()
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    with anyio.move_on_after(0.05) as scope:
        await get(Fetcher(Settings()), "http://photos.example/")

    assert scope.cancelled_caught
    assert not ended.is_set()
    answered.set()


async def test_a_connection_has_five_seconds_of_the_time() -> None:
    network = FakeNetwork()

    await get(Fetcher(Settings(), names(a=PUBLIC), network), "http://a.example/")

    assert network.timeouts == [5]


async def test_an_endless_answer_ends_at_the_limit() -> None:
    async def flood(writer: asyncio.StreamWriter, path: str) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    held: list[int] = []
    async with serve(flood) as server:
        with pytest.raises(BadImageError, match="bytes, more than the limit of 5000") as caught:
            await here(max_image_bytes=5000).fetch(server.url(), hold=held.append)
        await server.left.wait()

    assert caught.value.reason == "bad_image"
    assert sum(held) <= 5000


def chunked(size: int, number: int) -> bytes:
    chunk = f"{size:x}\r\n{'x' * size}\r\n".encode()
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * number + b"0\r\n\r\n"


@pytest.mark.parametrize(("size", "number"), [(1000, 500), (1, 256)])
async def test_an_answer_may_come_in_many_pieces(size: int, number: int) -> None:
    async with serve(chunked(size, number)) as server:
        data = await get(here(), server.url())

    assert len(data) == size * number


@pytest.mark.parametrize(("size", "number"), [(200, 5000), (1, 258)])
async def test_an_answer_in_too_many_small_pieces_is_refused(size: int, number: int) -> None:
    async with serve(chunked(size, number)) as server:
        with pytest.raises(FetchError):
            await get(here(), server.url())
        await server.left.wait()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_interim_answers_without_end_are_refused(
    scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    network = FakeNetwork(b"HTTP/1.1 100 Continue\r\n\r\n" * 2000)

    with pytest.raises(FetchError):
        await get(Fetcher(Settings(), names(a=PUBLIC), network), f"{scheme}://a.example/")

    assert "no answer within 32768 bytes" in logged(caplog)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_other_work_has_its_turn_every_few_kilobytes(scheme: str) -> None:
    network = FakeNetwork()

    await get(Fetcher(Settings(), names(a=PUBLIC), network), f"{scheme}://a.example/")

    assert set(network.read_sizes) == {16 * 1024}


async def test_a_declared_length_over_the_limit_is_refused_before_anything_arrives() -> None:
    async with serve(b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n") as server:
        with pytest.raises(BadImageError) as caught:
            await get(here(max_image_bytes=100), server.url())

    assert str(caught.value) == "the image has at least 101 bytes, more than the limit of 100"


async def test_an_answer_at_the_limit_is_accepted() -> None:
    async with serve(OK) as server:
        assert await get(here(max_image_bytes=5), server.url()) == b"image"


ANSWERS_THAT_ARE_NO_IMAGE = {
    "compressed": OK.replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1),
    "compressed twice": OK.replace(b"\r\n", b"\r\nContent-Encoding: identity, gzip\r\n", 1),
    "compressed in transfer": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
    ),
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "partial": OK.replace(b"200", b"206"),
    "not found": OK.replace(b"200", b"404"),
    "no content": b"HTTP/1.1 204 No\r\n\r\n",
    "created elsewhere": redirect("/", status=201),
    "redirect to nowhere": b"HTTP/1.1 302 Go\r\nContent-Length: 0\r\n\r\n",
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "endless header": b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nimage",
}


@pytest.mark.parametrize(
    "answer", ANSWERS_THAT_ARE_NO_IMAGE.values(), ids=ANSWERS_THAT_ARE_NO_IMAGE
)
async def test_an_answer_that_is_no_image_is_refused(answer: bytes) -> None:
    async with serve(answer) as server:
        with pytest.raises(FetchError) as caught:
            await get(here(), server.url())

    assert str(caught.value) == MESSAGE
    assert len(server.requests) == 1


async def test_an_answer_that_breaks_off_is_refused() -> None:
    async def half(writer: asyncio.StreamWriter, path: str) -> None:
        writer.write(OK[:-2])
        writer.close()

    async with serve(half) as server:
        with pytest.raises(FetchError):
            await get(here(), server.url())


# Addresses

NEVER = {
    "this network": ["0.0.0.0", "0.1.2.3", "::"],
    "link-local, and metadata": ["169.254.169.254", "169.254.170.2", "fe80::1", "fe80::1%1"],
    "Azure's agent": ["168.63.129.16"],
    "metadata of AWS and Google": ["fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"],
    "carriers, and Alibaba's metadata": ["100.64.0.1", "100.100.100.200", "100.127.255.255"],
    "protocol assignments": ["192.0.0.1", "192.0.0.192", "192.0.0.255", "2001:2::1", "2001:10::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "benchmarks": ["198.18.0.1", "198.19.255.255"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "100::1", "5f00::1", "fec0::1"],
    "6to4": ["192.88.99.1", "2002:7f00:1::", "2002:808:808::1"],
    "Teredo": ["2001::1"],
    "NAT64": ["64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1"],
    "IPv4 within IPv6": ["::127.0.0.1", "::8.8.8.8", "::ffff:0:8.8.8.8"],
}
PRIVATE = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "10": ["10.0.0.1", "10.255.255.255"],
    "172": ["172.16.0.1", "172.31.255.255"],
    "192": ["192.168.0.1", "192.168.255.255"],
    "unique local": ["fc00::1", "fd12:3456::1"],
}
PUBLICS = {
    "known": ["8.8.8.8", "1.1.1.1", "20.150.38.228", PUBLIC],
    "known, IPv6": ["2001:4860:4860::8888", "2603:1030::1", "2a00:1450:4001::1", OTHER_PUBLIC],
    "next to private": ["172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1"],
    "next to others": ["168.63.129.17", "192.0.1.1", "192.88.98.1", "223.255.255.254"],
}


def each(table: dict[str, list[str]]) -> list[str]:
    return [address for addresses in table.values() for address in addresses]


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("address", each(NEVER))
def test_an_address_of_no_public_server_is_never_allowed(address: str, private: bool) -> None:
    assert not is_allowed(ip_address(address), private=private)


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("address", each(PRIVATE))
def test_a_private_address_is_allowed_by_the_setting_alone(address: str, private: bool) -> None:
    assert is_allowed(ip_address(address), private=private) == private


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("address", each(PUBLICS))
def test_a_public_address_is_allowed(address: str, private: bool) -> None:
    assert is_allowed(ip_address(address), private=private)


SPELLINGS_OF_THIS_MACHINE = {
    "usual": ["127.0.0.1", "localhost", "LOCALHOST", "@127.0.0.1"],
    "short": ["127.1", "0"],
    "decimal": ["2130706433"],
    "hexadecimal": ["0x7f000001", "0x7F.1"],
    "octal": ["017700000001"],
    "IPv6": ["[::1]", "[0:0:0:0:0:0:0:1]"],
    "IPv4 within IPv6": ["[::ffff:127.0.0.1]", "[::FFFF:7f00:1]", "[::127.0.0.1]"],
    "NAT64": ["[64:ff9b::127.0.0.1]"],
    "other full stops": ["127。0。0。1"],
}


@pytest.mark.parametrize("host", each(SPELLINGS_OF_THIS_MACHINE))
async def test_no_spelling_of_this_machine_is_connected_to(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(OK) as server:
        with pytest.raises(FetchError) as caught:
            await get(Fetcher(Settings()), server.url(host=host))

    assert server.connections == 0
    assert str(caught.value) == MESSAGE
    assert "which is not public" in logged(caplog)


async def test_the_systems_own_look_up_is_used_by_default() -> None:
    async with serve(OK) as server:
        data = await get(Fetcher(Settings(url_allow_private=True)), server.url(host="localhost"))

    assert data == b"image"


@pytest.mark.parametrize(
    "found",
    [
        ["10.0.0.1"],
        ["::ffff:169.254.169.254"],
        ["fe80::1%eth0"],
        [PUBLIC, "127.0.0.1"],
        ["127.0.0.1", PUBLIC],
        [OTHER_PUBLIC, PUBLIC, "::1"],
        [],
    ],
    ids=str,
)
async def test_a_name_is_refused_unless_all_its_addresses_are_public(found: list[str]) -> None:
    network = FakeNetwork()

    with pytest.raises(FetchError):
        await get(Fetcher(Settings(), names(a=found), network), "http://a.example/")

    assert network.dialled == []


class Rebinding:
    """A name server whose answers change: the first is harmless."""

    def __init__(self, *answers: str) -> None:
        self.answers = itertools.chain(answers[:-1], itertools.repeat(answers[-1]))
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return [next(self.answers)]


async def test_the_address_dialled_is_the_one_that_was_checked() -> None:
    resolve, network = Rebinding(PUBLIC, "127.0.0.1"), FakeNetwork()

    await get(Fetcher(Settings(), resolve, network), "http://a.example/")

    assert resolve.asked == ["a.example"]
    assert network.dialled == [PUBLIC]


async def test_every_download_checks_anew() -> None:
    resolve, network = Rebinding(PUBLIC, "127.0.0.1"), FakeNetwork()
    fetcher = Fetcher(Settings(), resolve, network)
    await get(fetcher, "http://a.example/")

    with pytest.raises(FetchError):
        await get(fetcher, "http://a.example/")

    assert network.dialled == [PUBLIC]


async def test_a_redirect_to_the_same_host_checks_anew() -> None:
    resolve, network = Rebinding(PUBLIC, "127.0.0.1"), FakeNetwork(redirect("/b"))

    with pytest.raises(FetchError):
        await get(Fetcher(Settings(), resolve, network), "http://a.example/a")

    assert network.dialled == [PUBLIC]


DEATHS = [httpcore.ConnectError, httpcore.ConnectTimeout]


@pytest.mark.parametrize("death", DEATHS)
async def test_addresses_are_tried_in_turn(death: type[Exception]) -> None:
    network = FakeNetwork(dead=[OTHER_PUBLIC], death=death)
    fetcher = Fetcher(Settings(), names(a=[OTHER_PUBLIC, PUBLIC]), network)

    assert await get(fetcher, "http://a.example/") == b"image"
    assert network.dialled == [OTHER_PUBLIC, PUBLIC]


@pytest.mark.parametrize("death", DEATHS)
async def test_a_name_nobody_is_at_is_refused(death: type[Exception]) -> None:
    network = FakeNetwork(dead=[PUBLIC], death=death)

    with pytest.raises(FetchError):
        await get(Fetcher(Settings(), names(a=PUBLIC), network), "http://a.example/")


async def test_an_unknown_name_is_refused() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(FetchError) as caught:
        await get(Fetcher(Settings(), resolve), "http://a.example/")

    assert str(caught.value) == MESSAGE


async def test_an_ipv4_address_within_an_ipv6_address_is_dialled_as_such() -> None:
    network = FakeNetwork()

    await get(Fetcher(Settings(), names(a="::ffff:8.8.8.8"), network), "http://a.example/")

    assert network.dialled == ["8.8.8.8"]


async def test_an_ipv6_literal_keeps_its_brackets_in_the_request() -> None:
    network = FakeNetwork()

    await get(Fetcher(Settings(), network=network), f"http://[{OTHER_PUBLIC}]:8080/")

    assert network.dialled == [OTHER_PUBLIC]
    assert f"Host: [{OTHER_PUBLIC}]:8080\r\n".encode() in network.written


# URLs


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://a.example/" + "x" * 2048, "2065 characters, more than the limit of 2048"),
        ("http://a.example\\@127.0.0.1/", "a backslash"),
        ("http://a.example/a b", "white space"),
        ("http://a.example/\u3000", "white space"),
        ("http://a.example/\r\nX: y", "control characters"),
        ("http://a.example/\x00", "control characters"),
        ("http://a.example/\udcff", "control characters"),
        ("ftp://a.example/", "https:// or http://"),
        ("file:///etc/passwd", "https:// or http://"),
        ("//a.example/", "https:// or http://"),
        ("http://a@b.example/", "user name or password"),
        ("http://:b@c.example/", "user name or password"),
        ("http://a.example%2f@127.0.0.1/", "user name or password"),
        ("http://", "no valid host"),
        ("http:///a.jpg", "no valid host"),
        ("http:a.jpg", "no valid host"),
        ("http://?a.example", "no valid host"),
        ("http://a..example/", "no valid host"),
        ("http://.example/", "no valid host"),
        (f"http://{'a' * 64}.example/", "no valid host"),
        ("http://127.0.0.1%00.example/", "no valid host"),
        ("http://%31%32%37.0.0.1/", "no valid host"),
        ("http://[fe80::1%25eth0]/", "no valid host"),
        ("http://a.example:0/", "no valid port"),
        ("http://a.example:65536/", "no valid port"),
        ("http://a.example:-1/", "no valid port"),
        ("http://a.example:http/", "not valid"),
        ("http://[::1/", "not valid"),
        ("http://[::1].example/", "not valid"),
        ("http://[fe80::1%é]/", "not valid"),
        ("http://0177.0.0.1/", "not valid"),
        ("http://256.1.1.1/", "not valid"),
        ("http://ⓛocalhost/", "not valid"),
    ],
    ids=ascii,
)
async def test_a_url_that_is_odd_is_refused_by_name_and_leads_nowhere(url: str, why: str) -> None:
    resolve, network = Rebinding(PUBLIC), FakeNetwork()

    with pytest.raises(UrlRefusedError, match=why) as caught:
        await get(Fetcher(Settings(), resolve, network), url)

    assert caught.value.reason == "url_refused"
    assert resolve.asked == []


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("HTTP://A.Example/", "a.example"),
        ("http://a.example./", "a.example."),
        ("http://a_b.example/", "a_b.example"),
        ("http://bücher.example/é", "xn--bcher-kva.example"),
        ("http://127.0.0.1#@a.example/", "127.0.0.1"),
        ("http://a.example?@127.0.0.1/", "a.example"),
        ("http://a.example/@127.0.0.1/", "a.example"),
    ],
)
async def test_the_host_looked_up_is_the_one_of_the_url(url: str, host: str) -> None:
    resolve = Rebinding(PUBLIC)

    await get(Fetcher(Settings(), resolve, FakeNetwork()), url)

    assert resolve.asked == [host]


# Policy


async def test_nothing_is_fetched_when_urls_are_disabled() -> None:
    resolve = Rebinding(PUBLIC)

    with pytest.raises(UrlRefusedError) as caught:
        await get(Fetcher(Settings(url_policy="disabled"), resolve), "http://a b")

    assert str(caught.value) == "image URLs are not enabled on this server"
    assert resolve.asked == []


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("a.example", "a.example"),
        ("A.Example", "a.EXAMPLE."),
        (".a.example", "b.a.example"),
        ("*.a.example", "c.b.a.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "Bücher.example"),
    ],
)
async def test_a_host_on_the_allowlist_is_fetched_from(
    entry: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLOV2_URL_ALLOWLIST", f"other.example, {entry}")
    settings = Settings.load(url_policy="allowlist")

    data = await get(Fetcher(settings, Rebinding(PUBLIC), FakeNetwork()), f"http://{host}/")

    assert data == b"image"


@pytest.mark.parametrize(
    ("allowlist", "host"),
    [
        ([], "a.example"),
        (["a.example"], "b.a.example"),
        (["a.example"], "a.example.evil"),
        (["a.example"], "xa.example"),
        ([".a.example"], "a.example"),
        ([".a.example"], "xa.example"),
        (["127.0.0.1"], "2130706433"),
    ],
)
async def test_a_host_outside_the_allowlist_is_not(allowlist: Sequence[str], host: str) -> None:
    settings = Settings(url_policy="allowlist", url_allowlist=allowlist)
    resolve = Rebinding(PUBLIC)

    with pytest.raises(UrlRefusedError, match="not fetched from the host"):
        await get(Fetcher(settings, resolve, FakeNetwork()), f"http://{host}/")

    assert resolve.asked == []


async def test_the_allowlist_does_not_open_private_addresses() -> None:
    settings = Settings(url_policy="allowlist", url_allowlist=["a.example"])

    with pytest.raises(FetchError):
        await get(Fetcher(settings, names(a="10.0.0.1"), FakeNetwork()), "http://a.example/")


@pytest.mark.parametrize(
    "entry", ["https://a.example", "a.example:80", "a.example/b", "*", "*.", "*a.example", "[::1]"]
)
def test_an_entry_that_is_no_host_is_refused_at_the_start(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLOV2_URL_ALLOWLIST", f"a.example,{entry}")

    with pytest.raises(SettingsError) as caught:
        Settings.load()

    assert "SOLOV2_URL_ALLOWLIST" in str(caught.value)
    assert repr(entry) in str(caught.value)


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(status: int) -> None:
    async with serve({"/a/b": redirect("../c?d", status), "/c?d": OK}) as server:
        assert await get(here(), server.url("/a/b")) == b"image"


async def test_three_redirects_are_followed() -> None:
    hops = {f"/{n}": redirect(f"/{n + 1}") for n in range(3)}
    async with serve({**hops, "/3": OK}) as server:
        assert await get(here(), server.url("/0")) == b"image"


async def test_a_loop_of_redirects_ends_after_three() -> None:
    async with serve(redirect("/")) as server:
        with pytest.raises(FetchError):
            await get(here(), server.url())

    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "location",
    [
        "http://inside.example/",
        "//inside.example/",
        "http://169.254.169.254/metadata",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "file:///etc/passwd",
        "gopher://b.example/",
        "http://user@b.example/",
        "http://b.example\\@inside.example/",
        "http://b.example/a b",
        "http://b.example/" + "x" * 2048,
        "http://[::1",
        "http://b.example:0/",
        "http://xn--a/",
        "http://\u2100.example/",
    ],
    ids=ascii,
)
async def test_a_redirect_is_checked_as_the_first_url_is(location: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        outside = {"a.example": [PUBLIC], "b.example": [PUBLIC]}
        inside = {"inside.example": ["10.0.0.1"], "xn--a": ["10.0.0.1"]}
        return (outside | inside).get(host) or await fetch.look_up(host, port)

    network = FakeNetwork(redirect(location))

    with pytest.raises(FetchError) as caught:
        await get(Fetcher(Settings(), resolve, network), "http://a.example/")

    assert str(caught.value) == MESSAGE
    assert network.dialled == [PUBLIC]


async def test_a_redirect_that_leaves_the_allowlist_is_refused() -> None:
    settings = Settings(url_policy="allowlist", url_allowlist=["a.example"])
    resolve, network = Rebinding(PUBLIC), FakeNetwork(redirect("http://b.example/"))

    with pytest.raises(FetchError):
        await get(Fetcher(settings, resolve, network), "http://a.example/")

    assert resolve.asked == ["a.example"]


async def test_a_redirect_from_https_to_http_is_refused() -> None:
    network = FakeNetwork(redirect("http://b.example/"))

    with pytest.raises(FetchError):
        await get(Fetcher(Settings(), Rebinding(PUBLIC), network), "https://a.example/")

    assert len(network.dialled) == 1


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and the certificate it signed for itself, as photos.example."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not there")
    file = tmp_path_factory.mktemp("tls") / "photos.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    name = ["-subj", "/CN=photos.example", "-addext", "subjectAltName=DNS:photos.example"]
    files = ["-keyout", file, "-out", file.with_suffix(".crt")]
    subprocess.run(["openssl", "req", *kind, *name, *files], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + file.with_suffix(".crt").read_bytes())
    return file


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(certifi, "where", lambda: str(certificate))
    fetch._certificates.cache_clear()
    yield
    fetch._certificates.cache_clear()


@pytest.mark.usefixtures("trusted")
async def test_an_image_is_downloaded_over_tls(tls: ssl.SSLContext) -> None:
    async with serve(OK, tls) as server:
        assert await get(here(), server.url(scheme="https")) == b"image"


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("host", ["other.example", "127.0.0.1"])
async def test_a_certificate_for_another_host_is_refused(tls: ssl.SSLContext, host: str) -> None:
    async with serve(OK, tls) as server:
        with pytest.raises(FetchError):
            await get(here(), server.url(host=host, scheme="https"))

    assert server.requests == []


async def test_a_certificate_nobody_vouches_for_is_refused(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    fetch._certificates.cache_clear()

    async with serve(OK, tls) as server:
        with pytest.raises(FetchError):
            await get(here(), server.url(scheme="https"))

    assert server.requests == []


async def test_tls_verifies_the_host_of_the_url_whatever_its_address() -> None:
    network = FakeNetwork()

    await get(Fetcher(Settings(), names(a=PUBLIC), network), "https://a.example/")

    assert network.names_verified == ["a.example"]


# Surroundings and traces


async def test_proxies_and_passwords_of_the_environment_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async with serve(OK) as server:
        data = await get(here(), server.url())

    assert data == b"image"
    assert "authorization" not in server.requests[0].lower()


async def test_a_failure_is_logged_with_host_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    fetcher = Fetcher(Settings(), names(a="10.1.2.3"))

    with pytest.raises(FetchError):
        await get(fetcher, "http://a.example/")

    entry = json.loads(logged(caplog))
    assert entry["event"] == "fetch_failed"
    assert entry["host"] == "a.example"
    assert entry["why"] == "a.example is at 10.1.2.3, which is not public"


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        OK.replace(b"200", b"403"),
        redirect("http://other.example:1/b?sig=SECRET"),
        redirect("http://SECRET@other.example/"),
        b"GET /a.jpg?sig=SECRET HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: SECRET\r\n\r\n",
    ],
    ids=["fetched", "refused", "redirected", "redirected with user", "echoed", "in a header"],
)
async def test_what_authorizes_a_url_is_never_logged(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(answer) as server:
        with suppress(FetchError):
            await get(here(), server.url("/a.jpg?sig=SECRET"))

    assert "SECRET" in server.requests[0]
    assert "SECRET" not in logged(caplog)


def test_the_errors_can_say_which_row_they_are_about() -> None:
    error = FetchError(MESSAGE).in_row(3)

    assert isinstance(error, FetchError)
    assert str(error) == f"row 3: {MESSAGE}"
    assert (error.status, error.reason) == (400, "fetch_failed")
