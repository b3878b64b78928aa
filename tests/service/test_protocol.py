import io

import pytest

from service.protocol import (
    BatchReport,
    Frame,
    Kind,
    WorkerInfo,
    WorkerStart,
    pack_jobs,
    receive_frame,
    send_frame,
    unpack_jobs,
)


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00" * 100_000], ids=["none", "one", "many"])
def test_a_frame_arrives_as_it_was_sent(payload: bytes) -> None:
    stream = io.BytesIO()

    send_frame(stream, Frame(Kind.RESULT, 2**32 - 1, payload))
    send_frame(stream, Frame(Kind.READY))

    stream.seek(0)
    assert receive_frame(stream) == Frame(Kind.RESULT, 2**32 - 1, payload)
    assert receive_frame(stream) == Frame(Kind.READY)


@pytest.mark.parametrize("missing", [1, 3, 4, 8, 12])
def test_a_frame_cut_short_counts_as_a_closed_pipe(missing: int) -> None:
    stream = io.BytesIO()
    send_frame(stream, Frame(Kind.IMAGE, 1, b"abc"))

    assert receive_frame(io.BytesIO(stream.getvalue()[:-missing])) is None


def test_a_frame_of_no_known_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="99 is not a valid Kind"):
        receive_frame(io.BytesIO(b"\x63" + bytes(8)))


@pytest.mark.parametrize("jobs", [[], [7], [3, 2**32 - 1, 0]])
def test_job_numbers_arrive_in_order(jobs: list[int]) -> None:
    assert unpack_jobs(pack_jobs(jobs)) == tuple(jobs)


@pytest.mark.parametrize(
    "message",
    [
        WorkerStart('{"port": 5001}', "auto", 2),
        WorkerInfo("cuda:1", ["cuda:0", "cuda:1"], 8, 800, 1333, {"load": 1.5}),
        BatchReport([2], 0.25, {"decode": [0.1, 0.2], "infer": [0.3]}, [4, 0], 1, 2, 2**40),
    ],
)
def test_a_message_arrives_as_it_was_sent(message: WorkerStart | WorkerInfo | BatchReport) -> None:
    assert type(message).from_json(message.to_json()) == message
