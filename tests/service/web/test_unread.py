import json
import socket
from collections.abc import Callable, Iterator

import pytest

from service.settings import Settings


@pytest.fixture
def connect(serve_in_thread: Callable, dispatcher) -> Iterator[Callable[[], socket.socket]]:
    with serve_in_thread(Settings(max_body_bytes=1000), dispatcher) as url:
        port = int(url.rsplit(":", 1)[1])
        yield lambda: socket.create_connection(("127.0.0.1", port), timeout=10)


def everything_on(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


REFUSED = {
    "too large": (b"POST /score", b"content-type: application/json\r\n", 413),
    "no JSON": (b"POST /score", b"content-type: text/plain\r\n", 415),
    "wrong method": (b"PUT /score", b"", 405),
    "wrong path": (b"POST /nowhere", b"", 404),
    "long id": (b"POST /score", b"x-request-id: %s\r\n" % (b"i" * 101), 431),
}


@pytest.mark.parametrize(("line", "headers", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_who_is_refused_while_sending_reads_the_answer_and_the_connection_ends(
    connect: Callable[[], socket.socket], line: bytes, headers: bytes, status: int
) -> None:
    size = 8_000_000
    with connect() as connection:
        connection.sendall(
            b"%s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%s\r\n" % (line, size, headers)
        )
        connection.sendall(b" " * size)

        head, _, body = everything_on(connection).partition(b"\r\n\r\n")

    assert int(head.split()[1]) == status
    assert b"connection: close" in head
    assert list(json.loads(body)) == ["message"]


def test_who_goes_on_sending_for_ever_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[], socket.socket]
) -> None:
    monkeypatch.setattr("service.web.unread._LINGER_S", 0.1)
    with connect() as connection:
        connection.sendall(b"PUT /score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")

        answer = everything_on(connection)  # ends, though the body has not begun

    assert answer.startswith(b"HTTP/1.1 405")


def test_a_refused_request_without_a_body_keeps_its_connection(
    connect: Callable[[], socket.socket],
) -> None:
    with connect() as connection:
        for _ in range(2):
            connection.sendall(b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n")

            answer = connection.recv(65536)

            assert answer.startswith(b"HTTP/1.1 404")
            assert b"connection: close" not in answer
