"""Images that clients name by their URL, downloaded from public addresses alone.

Clients choose what this process connects to, so that neither a name, an address, a redirect nor
an answer is trusted. Where a download leads is decided when the connection is made, from the
addresses that are then dialled; a decision made earlier, about a name, could be outlived by it.
"""

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import cache, partial

import anyio.to_thread
import httpcore
import httpx

from service.errors import BadImageError, FetchError, UrlRefusedError
from service.logs import log_event
from service.settings import Settings

logger = logging.getLogger(__name__)

#: Host and port -> the addresses of the host, those to try first in front.
Resolve = Callable[[str, int], Awaitable[list[str]]]

#: Called with the size of every piece that arrives, before it is kept.
Hold = Callable[[int], None]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_DOWNLOADS = 32  # at a time; others wait, within their own deadlines
_MAX_REDIRECTS = 3
_MAX_URL_CHARS = 2048

# Parsing takes time from every request, by lines and chunks rather than bytes. These bound how
# much of it a server can take that sends many short ones.
_MAX_HEAD_BYTES = 32 * 1024
_READ_BYTES = 16 * 1024  # others have their turn in between
_FREE_PIECES = 256  # beyond them, pieces...
_MEAN_PIECE_BYTES = 256  # ...must have so many bytes on average

_TIMEOUTS = {"timeout": {"connect": 5}}  # in seconds, within the whole download's

_HEADERS = [
    (b"Accept", b"image/*"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", b"solov2"),
]
_ERRORS = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    OSError,  # name not known; TLS that breaks after the handshake
)
_REDIRECTS = {301, 302, 303, 307, 308}

# A name, or an IPv6 address without a zone. Whether it is one, parser and resolver say; this keeps
# escapes, empty labels and the like from them.
_HOST = re.compile(r"[0-9a-z_-]{1,63}(\.[0-9a-z_-]{1,63})*\.?|[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*")


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# What the setting url_allow_private opens...
_PRIVATE = _networks(
    "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"
)
# ...but for where the machines of AWS and Google get their credentials.
_METADATA = _networks("fd00:ec2::/32", "fd20:ce::/32")

# What Python 3.11 calls global though no public server is there, or though what is reached there
# is another address.
_NOT_PUBLIC = _networks(
    "168.63.129.16/32",  # Azure's agent for every virtual machine
    "192.0.0.0/24",  # protocol assignments, and Oracle's metadata
    "192.88.99.0/24",  # 6to4 relays
    "224.0.0.0/4",  # multicast
    "::/3",  # this and the next two: all but 2000::/3, so no translated or embedded IPv4
    "4000::/2",
    "8000::/1",
    "2002::/16",  # 6to4, any IPv4 address
    "3fff::/20",  # documentation
)


class _Failure(Exception):
    """Why a download failed, for the log alone."""


async def look_up(host: str, port: int) -> list[str]:
    """Ask the system, in a thread that may outlive whoever asked.

    The event loop's own look-ups share a few threads, which names that nobody answers for would
    occupy long after the downloads have been given up.
    """
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
    return [str(address[0]) for *_, address in found]


@cache
def _certificates() -> ssl.SSLContext:
    """Whom we trust to name hosts: those that browsers trust. Reading them takes 25 ms."""
    return httpx.create_ssl_context(trust_env=False)


class Fetcher:
    """Downloads images, each within a time, a size and the deployment's policy."""

    def __init__(
        self,
        settings: Settings,
        resolve: Resolve = look_up,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._settings = settings
        self._resolve = resolve
        self._network = network or httpcore.AnyIOBackend()
        self._tls = _certificates()
        self._slots = asyncio.Semaphore(MAX_DOWNLOADS)
        self._open: set[_GuardedNetwork] = set()

    async def aclose(self) -> None:
        """Close the connections of downloads that still run."""
        for network in tuple(self._open):
            await network.aclose()

    async def fetch(self, url: str, *, hold: Hold) -> bytes:
        """What a URL leads to.

        Args:
            url: As the client wrote it, without white space around it.
            hold: May raise to end the download.

        Raises:
            UrlRefusedError: Such URLs are not fetched; nothing has been asked of anybody.
            FetchError: Nothing came; that we refused to connect looks the same to the client.
            BadImageError: Something came that is too large.
        """
        if self._settings.url_policy == "disabled":
            raise UrlRefusedError("image URLs are not enabled on this server")
        start = self._admit(_parse(url))
        timeout_s = self._settings.url_timeout_s
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                return await self._download(start, hold)
        except TimeoutError:
            why = f"not complete after {timeout_s} s"
        except (_Failure, UrlRefusedError) as error:
            why = str(error)
        log_event(logger, "fetch_failed", host=_host(start), why=why)
        raise FetchError("the image could not be fetched from its URL")

    def _admit(self, url: httpx.URL) -> httpx.URL:
        """The same URL, if it is one that this server fetches from."""
        host = _host(url)
        if url.scheme not in ("http", "https"):
            raise UrlRefusedError("the image URL must begin with https:// or http://")
        if url.userinfo:
            raise UrlRefusedError("the image URL must not hold a user name or password")
        if not _HOST.fullmatch(host):
            raise UrlRefusedError("the image URL has no valid host")
        if url.port is not None and not 0 < url.port < 65536:
            raise UrlRefusedError("the image URL has no valid port")
        if self._settings.url_policy == "allowlist" and not self._is_listed(host):
            raise UrlRefusedError("images are not fetched from the host of this image URL")
        return url

    def _is_listed(self, host: str) -> bool:
        name = host.removesuffix(".")
        return any(
            name.endswith(entry) if entry.startswith(".") else name == entry
            for entry in self._settings.url_allowlist
        )

    async def _download(self, url: httpx.URL, hold: Hold) -> bytes:
        for _ in range(1 + _MAX_REDIRECTS):
            async with self._ask(url) as answer:
                headers = httpx.Headers(answer.headers)
                if answer.status == 200:
                    return await self._read(answer, headers, hold)
                if answer.status not in _REDIRECTS or "location" not in headers:
                    raise _Failure(f"{_host(url)} answered {answer.status}")
            target = self._admit(_parse(headers["location"], base=url))
            if url.scheme == "https" and target.scheme == "http":
                raise _Failure(f"{_host(url)} redirected from https to http")
            url = target
        raise _Failure(f"more than {_MAX_REDIRECTS} redirects")

    @asynccontextmanager
    async def _ask(self, url: httpx.URL) -> AsyncIterator[httpcore.Response]:
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        headers = [(b"Host", url.netloc), *_HEADERS]
        try:
            async with (
                self._connection(target.origin) as connection,
                connection.stream("GET", target, headers=headers, extensions=_TIMEOUTS) as answer,
            ):
                answer.extensions["network_stream"].in_head = False
                yield answer
        except _ERRORS as error:
            raise _Failure(f"{_host(url)}: {_explain(error)}") from error

    @asynccontextmanager
    async def _connection(
        self, origin: httpcore.Origin
    ) -> AsyncIterator[httpcore.AsyncHTTPConnection]:
        """A connection for one request: the next one is checked again.

        Unlike httpx's clients and httpcore's pools, it knows no proxy, password or cookie, logs no
        URL, and keeps nothing when a request is cancelled.
        """
        network = _GuardedNetwork(self._network, self._resolve, self._settings.url_allow_private)
        self._open.add(network)
        try:
            yield httpcore.AsyncHTTPConnection(
                origin, ssl_context=self._tls, network_backend=network
            )
        finally:
            self._open.remove(network)
            await network.aclose()

    async def _read(self, answer: httpcore.Response, headers: httpx.Headers, hold: Hold) -> bytes:
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise _Failure("the answer is compressed, which was not asked for")
        self._bound(int(headers.get("content-length", "0")))
        data = bytearray()
        pieces = 0
        async for piece in answer.aiter_stream():
            self._bound(len(data) + len(piece))
            hold(len(piece))
            data += piece
            pieces += 1
            if pieces > _FREE_PIECES + len(data) // _MEAN_PIECE_BYTES:
                raise _Failure("the answer comes in too many too small pieces")
        if not data:
            raise _Failure("the answer is empty")
        return bytes(data)

    def _bound(self, size: int) -> None:
        limit = self._settings.max_image_bytes
        if size > limit:
            raise BadImageError(
                f"the image has at least {size} bytes, more than the limit of {limit}"
            )


class _GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to a host if all its addresses are allowed, by one of the addresses checked.

    A host is looked up once a connection: a second answer, to whatever dials, might be another.
    """

    def __init__(
        self, network: httpcore.AsyncNetworkBackend, resolve: Resolve, allow_private: bool
    ) -> None:
        self._network = network
        self._resolve = resolve
        self._allow_private = allow_private
        self._stream: _BoundedStream | None = None

    async def aclose(self) -> None:
        """Close the connection; httpcore, cancelled at the wrong moment, leaves that to chance."""
        if self._stream is not None:
            await self._stream.aclose()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = _Failure(f"{host} has no address")
        for address in await self._addresses(host, port):
            try:
                stream = await self._network.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                self._stream = _BoundedStream(stream)
                return self._stream
        raise failure

    async def _addresses(self, host: str, port: int) -> list[str]:
        found = [_unwrapped(text) for text in await self._resolve(host, port)]
        for address in found:
            if not is_allowed(address, private=self._allow_private):
                raise _Failure(f"{host} is at {address}, which is not public")
        return [str(address) for address in found]


class _BoundedStream(httpcore.AsyncNetworkStream):
    """A connection by which an answer has to come soon, counted in bytes.

    httpcore passes over any number of interim answers (100 Continue).
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._received = 0
        self.in_head = True

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._stream.read(min(max_bytes, _READ_BYTES), timeout)
        self._received += len(data)
        if self.in_head and self._received > _MAX_HEAD_BYTES:
            raise _Failure(f"no answer within {_MAX_HEAD_BYTES} bytes")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self._stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        return self

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def is_allowed(address: Address, *, private: bool) -> bool:
    """Whether clients may have us connect to an address; ``private`` opens the private ones."""
    if _is_in(address, _PRIVATE):
        return private and not _is_in(address, _METADATA)
    return address.is_global and not _is_in(address, _NOT_PUBLIC)


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _unwrapped(text: str) -> Address:
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _parse(text: str, base: httpx.URL | None = None) -> httpx.URL:
    """The URL, relative to ``base`` if given. Nothing but its parts is used from here on."""
    if len(text) > _MAX_URL_CHARS:
        raise UrlRefusedError(
            f"the image URL has {len(text)} characters, more than the limit of {_MAX_URL_CHARS}"
        )
    if not text.isprintable() or " " in text or "\\" in text:
        raise UrlRefusedError("the image URL holds white space, a backslash or control characters")
    try:
        url = base.join(text) if base else httpx.URL(text)
        _host(url)  # fails for a host that cannot be sent, such as one with a zone of odd letters
    except (httpx.InvalidURL, ValueError):
        raise UrlRefusedError("the image URL is not valid") from None
    return url


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii")


def _explain(error: Exception) -> str:
    """For the log: errors of protocol quote what was sent, which may be the query given back."""
    name = type(error).__name__
    return name if isinstance(error, httpcore.ProtocolError) else f"{name}: {error}"
