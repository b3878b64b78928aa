import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from service.settings import Settings


@pytest.fixture
def connect(serve_in_thread: Callable, dispatcher) -> Iterator[Callable[[], socket.socket]]:
    with serve_in_thread(Settings(), dispatcher) as url:
        port = int(url.rsplit(":", 1)[1])
        yield lambda: socket.create_connection(("127.0.0.1", port), timeout=10)


def answer_on(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """The status and the JSON of an answer after which the connection ends."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "beginning",
    [b"GET /", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\nx"],
    ids=["line", "value", "name"],
)
def test_endless_headers_end_the_connection(
    connect: Callable[[], socket.socket], beginning: bytes
) -> None:
    with connect() as connection:
        connection.sendall(beginning + b"a" * 65_536)

        assert answer_on(connection) == (431, {"message": "the headers have more than 65536 bytes"})


def test_headers_of_a_usual_size_are_read(connect: Callable[[], socket.socket]) -> None:
    with connect() as connection:
        connection.sendall(
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: %s\r\n\r\n" % (b"a" * 60_000)
        )

        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_large_body_does_not_count_as_headers(connect: Callable[[], socket.socket]) -> None:
    head = (
        b"POST /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 200000\r\n\r\n"
    )
    with connect() as connection:
        connection.sendall(head + b"a" * 200_000)

        assert answer_on(connection)[0] == 404


def test_what_is_no_http_gets_a_message_too(connect: Callable[[], socket.socket]) -> None:
    with connect() as connection:
        connection.sendall(b"nonsense\r\n\r\n")

        status, body = answer_on(connection)

    assert (status, list(body)) == (400, ["message"])


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\nhost: x"], ids=["none", "some"])
def test_headers_that_never_come_end_the_connection(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[], socket.socket], beginning: bytes
) -> None:
    monkeypatch.setattr("service.web.connection._HEADER_TIMEOUT_S", 0.1)
    with connect() as connection:
        connection.sendall(beginning)

        assert connection.recv(1) == b""


def test_a_second_request_on_a_connection_has_its_own_bounds(
    connect: Callable[[], socket.socket],
) -> None:
    request = b"GET / HTTP/1.1\r\nhost: x\r\nx: %s\r\n\r\n" % (b"a" * 40_000)
    with connect() as connection:
        for _ in range(3):
            connection.sendall(request)

            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


QUERY = b"input_data=%7B%22columns%22:[%22image%22],%22data%22:[%22@%22]%7D"
ASK = b"GET /score?" + QUERY + b" HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture
def large_answers(dispatcher, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every image is answered with that many bytes."""
    size = 30_000_000

    async def scores(*_: object) -> list[bytes]:
        return [b"0" * size]

    monkeypatch.setattr("service.web.scoring.Scorer.score", scores)
    return size


def test_a_client_that_does_not_read_its_answer_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[], socket.socket], large_answers: int
) -> None:
    monkeypatch.setattr("service.web.connection._STALL_TIMEOUT_S", 0.2)
    with connect() as connection:
        connection.sendall(ASK)
        time.sleep(1)

        received = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 20):
                received += len(piece)

    assert received < large_answers


def test_a_client_that_reads_slowly_gets_all_of_its_answer(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[], socket.socket], large_answers: int
) -> None:
    monkeypatch.setattr("service.web.connection._STALL_TIMEOUT_S", 0.2)
    with connect() as connection:
        connection.sendall(ASK)

        received = 0
        while received < large_answers:
            received += len(connection.recv(1 << 20))
            time.sleep(0.02)

    assert received > large_answers
