import asyncio

import pytest

from service.dispatch.admission import Admission
from service.dispatch.jobs import Job
from service.errors import BadRequestError, QueueFullError, ScoringTimeoutError
from service.metrics import Metrics
from service.protocol import EncodedImage
from service.settings import Settings

pytestmark = pytest.mark.anyio


class Forgotten(list[Job]):
    """The jobs that have ended."""


def admission(forgotten: Forgotten | None = None, **settings: int) -> Admission:
    ended = Forgotten() if forgotten is None else forgotten
    return Admission(Settings(**settings), Metrics(), ended.append)


def admit(admission: Admission, *images: bytes) -> list[Job]:
    return admission.admit([EncodedImage(data, 4, 3) for data in images], lambda _: (32, 32))


async def test_room_is_given_back_however_a_job_ends() -> None:
    forgotten = Forgotten()
    limited = admission(forgotten, max_queue_images=3, scoring_timeout_ms=20)
    answered, left, late = admit(limited, b"a", b"b", b"c")
    with pytest.raises(QueueFullError):
        admit(limited, b"d")

    answered.settle(b"[]")
    left.answer.cancel()
    with pytest.raises(ScoringTimeoutError):
        await late.answer

    assert set(forgotten) == {answered, left, late}
    assert len(admit(limited, b"d", b"e", b"f")) == 3


async def test_a_request_that_could_never_wait_is_refused_for_good() -> None:
    with pytest.raises(BadRequestError, match="2 images of 6 bytes"):
        admit(admission(max_queue_bytes=5), b"abc", b"def")


async def test_images_of_a_request_have_their_turns_at_the_pace_of_the_last() -> None:
    paced = admission()
    first = admit(paced, b"a", b"b", b"c")
    assert [round(job.turn - first[0].turn, 6) for job in first] == [0, 0.1, 0.2]

    await asyncio.sleep(0.02)
    paced.note_scored()

    second = admit(paced, b"d", b"e")
    assert 0.02 <= second[1].turn - second[0].turn < 0.1
    assert len({job.number for job in [*first, *second]}) == 5
