import io

import pytest

from service.protocol import Frame, Kind, receive_frame, send_frame


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00" * 100_000], ids=["none", "one", "many"])
def test_a_frame_arrives_as_it_was_sent(payload: bytes) -> None:
    stream = io.BytesIO()

    send_frame(stream, Frame(Kind.RESULT, payload))
    send_frame(stream, Frame(Kind.READY))

    stream.seek(0)
    assert receive_frame(stream) == Frame(Kind.RESULT, payload)
    assert receive_frame(stream) == Frame(Kind.READY)


@pytest.mark.parametrize("missing", [1, 3, 4, 8])
def test_a_frame_cut_short_counts_as_a_closed_pipe(missing: int) -> None:
    stream = io.BytesIO()
    send_frame(stream, Frame(Kind.SCORE, b"abc"))

    assert receive_frame(io.BytesIO(stream.getvalue()[:-missing])) is None
