import asyncio

import pytest

from service.dispatch.canvas import Canvas
from service.dispatch.jobs import Job
from service.dispatch.slot import Slot
from service.protocol import EncodedImage, Frame, Kind, WorkerInfo
from service.settings import Settings

pytestmark = pytest.mark.anyio
CANVAS = (100, 100)


class SilentWorker:
    def __init__(self) -> None:
        self.sent: list[Frame] = []
        self.killed = False
        self.error: Exception | None = None
        self.unread = 0

    async def start(self) -> WorkerInfo:
        raise NotImplementedError

    def send(self, frame: Frame) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(frame)

    async def receive(self) -> Frame:
        raise NotImplementedError

    def unread_bytes(self) -> int:
        return self.unread

    def kill(self) -> None:
        self.killed = True

    async def stop(self) -> int | None:
        raise NotImplementedError


def job(number: int, canvas: Canvas = CANVAS, side: int = 10, lost_workers: int = 0) -> Job:
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    image = EncodedImage(b"image", side, side)
    return Job(number, image, canvas, 0.0, 0.0, answer, lost_workers)


def slot_of(worker: SilentWorker, max_batch_size: int = 4) -> Slot:
    slot = Slot("auto")
    info = WorkerInfo("cuda:0", ["cuda:0"], max_batch_size, 800, 1333, {"warm_up": 4.0})
    slot.take_on(worker, info, 0.0, start_s=20.0)
    return slot


async def test_a_slot_has_no_room_before_its_worker_is_ready() -> None:
    assert not Slot("cpu").has_room_for(job(1), Settings())


async def test_the_worker_says_what_device_it_has_become() -> None:
    assert slot_of(SilentWorker()).device == "cuda:0"


async def test_a_batch_is_limited_by_the_number_of_its_images() -> None:
    slot = slot_of(SilentWorker(), max_batch_size=2)
    slot.send(job(1))
    assert slot.has_room_for(job(2), Settings())
    slot.send(job(2))

    assert not slot.has_room_for(job(3), Settings())


async def test_a_batch_is_limited_by_its_padded_pixels_but_one_image_always_goes() -> None:
    slot = slot_of(SilentWorker())
    settings = Settings(max_batch_pixels=2 * 100 * 100 - 1)

    assert slot.has_room_for(job(1), settings)
    slot.send(job(1))
    assert not slot.has_room_for(job(2), settings)


async def test_a_batch_is_limited_by_what_its_images_are_when_decoded() -> None:
    slot = slot_of(SilentWorker())
    settings = Settings(max_image_pixels=150)
    slot.send(job(1, side=10))

    assert slot.has_room_for(job(2, side=7), settings)
    assert not slot.has_room_for(job(2, side=8), settings)


async def test_the_next_batch_grows_while_the_device_is_busy() -> None:
    slot = slot_of(SilentWorker(), max_batch_size=1)
    first, second = job(1), job(2, canvas=(32, 32))
    slot.send(first)

    assert slot.start([1]) == [first]
    assert slot.first_waiting() is None
    assert slot.has_room_for(second, Settings())
    slot.send(second)

    assert slot.first_waiting() is second
    assert slot.load() == 100 * 100 + 32 * 32


async def test_a_batch_is_of_one_canvas() -> None:
    slot = slot_of(SilentWorker())
    slot.send(job(1))

    assert not slot.has_room_for(job(2, canvas=(32, 32)), Settings())


async def test_a_worker_that_does_not_take_what_it_is_sent_is_sent_no_more() -> None:
    worker = SilentWorker()
    slot = slot_of(worker)
    worker.unread = 1000

    assert slot.has_room_for(job(1), Settings(max_image_bytes=1000))
    assert not slot.has_room_for(job(1), Settings(max_image_bytes=999))


async def test_what_a_start_and_a_batch_may_take_goes_by_what_they_took() -> None:
    slot = slot_of(SilentWorker())

    assert slot.start_timeout_s == 100
    assert slot.slowness_s == 12


async def test_an_image_that_lost_a_worker_goes_alone() -> None:
    slot = slot_of(SilentWorker())
    suspect = job(2, lost_workers=1)
    slot.send(job(1))
    assert not slot.has_room_for(suspect, Settings())

    slot.finish(1)
    assert slot.has_room_for(suspect, Settings())
    slot.send(suspect)
    slot.start([2])

    assert not slot.has_room_for(job(3), Settings())


async def test_an_image_given_up_before_its_batch_is_cancelled_and_no_load_any_more() -> None:
    worker = SilentWorker()
    slot, one = slot_of(worker), job(1)
    slot.send(one)

    assert slot.give_up(one)

    assert worker.sent == [Frame(Kind.IMAGE, 1, b"image"), Frame(Kind.CANCEL, 1)]
    assert slot.load() == 0
    assert slot.start([1]) == []
    assert slot.finish(1) is None


async def test_an_image_given_up_on_the_device_is_load_until_it_is_answered() -> None:
    worker = SilentWorker()
    slot, one = slot_of(worker), job(1)
    slot.send(one)
    slot.start([1])

    assert slot.give_up(one)

    assert [frame.kind for frame in worker.sent] == [Kind.IMAGE]
    assert slot.load() == one.pixels
    assert slot.finish(1) is one
    assert slot.load() == 0


async def test_an_image_of_another_slot_is_not_given_up() -> None:
    assert not slot_of(SilentWorker()).give_up(job(1))


async def test_a_lost_workers_jobs_are_taken_all_at_once() -> None:
    slot, jobs = slot_of(SilentWorker()), [job(1), job(2)]
    for one in jobs:
        slot.send(one)
    slot.start([1])

    assert sorted(one.number for one in slot.take_all()) == [1, 2]
    assert (slot.worker, slot.jobs()) == (None, [])


async def test_a_worker_that_cannot_be_spoken_to_is_killed_and_the_job_is_not_lost() -> None:
    worker = SilentWorker()
    worker.error = RuntimeError("a bug")
    slot, one = slot_of(worker), job(1)

    slot.send(one)

    assert worker.killed
    assert slot.take_all() == [one]
