import asyncio

import pytest

from service.dispatch.canvas import Canvas
from service.dispatch.jobs import Job, JobQueue
from service.errors import ScoringError
from service.protocol import EncodedImage

pytestmark = pytest.mark.anyio


def job(number: int, turn: float = 0.0, canvas: Canvas = (32, 64)) -> Job:
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    return Job(number, EncodedImage(b"", 30, 20), canvas, turn, 0.0, answer)


async def test_a_job_is_settled_once() -> None:
    one = job(1)

    one.settle(b"first")
    one.settle(ScoringError())

    assert await one.answer == b"first"


async def test_a_job_whose_client_left_is_not_settled() -> None:
    one = job(1)
    one.answer.cancel()

    one.settle(b"late")

    assert one.answer.cancelled()


async def test_a_job_knows_the_pixels_of_its_canvas_and_those_of_its_image() -> None:
    assert (job(1).pixels, job(1).source_pixels) == (32 * 64, 30 * 20)


async def test_whose_turn_is_earlier_is_first_whatever_came_first_and_has_which_canvas() -> None:
    late, early, other = job(1, 3.0), job(2, 1.0), job(3, 2.0, canvas=(64, 64))
    queue = JobQueue()
    for one in (late, early, other):
        queue.add(one)

    order = []
    while (first := queue.first()) is not None:
        queue.discard(first)
        order.append(first)

    assert order == [early, other, late]
    assert len(queue) == 0


async def test_of_equal_turns_the_one_that_came_first_is_first() -> None:
    queue = JobQueue()
    for number in (2, 1, 3):
        queue.add(job(number))

    assert [one.number for one in queue.all()] == [1, 2, 3]


async def test_the_first_of_one_canvas_may_not_be_the_first_of_all() -> None:
    early, late = job(1, 1.0), job(2, 2.0, canvas=(64, 64))
    queue = JobQueue()
    queue.add(early)
    queue.add(late)

    assert queue.first() is early
    assert queue.first((64, 64)) is late
    assert queue.first((96, 96)) is None


async def test_a_job_is_taken_out_once() -> None:
    one, equal = job(1), job(1)
    queue = JobQueue()
    queue.add(one)

    assert not queue.discard(equal)
    assert queue.discard(one)
    assert not queue.discard(one)
