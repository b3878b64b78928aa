import gc
import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from model.structures import Geometry, ImageBatch, Instances, MaskCrops
from service.errors import BadImageError
from service.protocol import BatchReport, Frame, Kind, unpack_jobs
from service.worker.isolation import DeviceLostError, Isolation
from service.worker.pipeline import Pipeline

_PATIENCE_S = 10  # for what must happen
_DOUBT_S = 0.05  # for what must not


class EndOfTest(BaseException): ...


class Steps:
    """Stages whose every step, such as "encode 3" or "infer 1 2", can be held or made to fail.

    An image is its number; what is found in it is nothing, in a picture as high as its number.
    """

    def __init__(self) -> None:
        self.canvases: dict[int, tuple[int, int]] = {}
        self.errors: dict[str, BaseException] = {}
        self.pixels: dict[int, weakref.ref[torch.Tensor]] = {}
        self._held: set[str] = set()
        self._reached: list[str] = []
        self._change = threading.Condition()

    def hold(self, *steps: str) -> None:
        self._held.update(steps)

    def release(self, *steps: str) -> None:
        with self._change:
            self._held.difference_update(steps or self._held.copy())
            self._change.notify_all()

    def reached(self, step: str, within_s: float = _PATIENCE_S) -> bool:
        with self._change:
            return self._change.wait_for(lambda: step in self._reached, within_s)

    def _step(self, step: str) -> None:
        with self._change:
            self._reached.append(step)
            self._change.notify_all()
            assert self._change.wait_for(lambda: step not in self._held, _PATIENCE_S)
        if step in self.errors:
            raise self.errors[step]

    def decode(self, data: bytes) -> ImageBatch:
        number = int(data)
        self._step(f"decode {number}")
        canvas = self.canvases.get(number, (1, 1))
        pixels = torch.full((1, 3, *canvas), number)
        self.pixels[number] = weakref.ref(pixels)
        return ImageBatch(pixels, (Geometry((1, 1), (1, 1), canvas),))

    def infer(self, batch: ImageBatch) -> list[Instances]:
        numbers = [int(pixels[0, 0, 0]) for pixels in batch.pixels]
        self._step(" ".join(["infer", *map(str, numbers)]))
        none = np.zeros(0)
        return [Instances(none, none, none, MaskCrops(()), n, width=1) for n in numbers]

    def encode(self, instances: Instances) -> bytes:
        self._step(f"encode {instances.height}")
        return b"fragment %d" % instances.height


class Worker:
    """A pipeline and all it has answered."""

    def __init__(
        self,
        steps: Steps,
        *,
        size: int = 4,
        delay_s: float = 60,
        threads: int = 2,
        begin_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self.steps = steps
        self.frames: list[Frame] = []
        self.refuses: Kind | None = None
        self.ended_by: BaseException | None = None
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self._spare = threading.Thread(target=self._run, args=(True,))
        self.pipeline = Pipeline(
            steps,
            Isolation(steps.infer, "cpu"),
            self._answer,
            max_batch_size=size,
            max_batch_delay_s=delay_s,
            threads=threads,
            device_memory=lambda: 77,
            begin_thread=begin_thread,
        )

    def submit(self, *jobs: int) -> None:
        for job in jobs:
            self.pipeline.submit(job, b"%d" % job)

    def start(self) -> None:
        self._thread.start()

    def start_spare(self) -> None:
        self._spare.start()

    def answers(self, size: int) -> dict[int, Frame]:
        """What was said about images, once it is about that many."""
        return {frame.job: frame for frame in self._wait_for(size, lambda frame: frame.job)}

    def reports(self, size: int) -> list[BatchReport]:
        frames = self._wait_for(size, lambda frame: frame.kind is Kind.REPORT)
        return [BatchReport.from_json(frame.payload) for frame in frames]

    def started(self, size: int) -> list[tuple[int, ...]]:
        frames = self._wait_for(size, lambda frame: frame.kind is Kind.STARTED)
        return [unpack_jobs(frame.payload) for frame in frames]

    def kinds(self, size: int) -> dict[int, Kind]:
        return {job: frame.kind for job, frame in self.answers(size).items()}

    def join(self) -> BaseException | None:
        for thread in (self._thread, self._spare):
            if thread.ident:
                thread.join(_PATIENCE_S)
                assert not thread.is_alive()
        return self.ended_by

    def close(self) -> None:
        self.steps.release()
        self.steps.errors["decode 0"] = EndOfTest()
        self.submit(0)
        self.join()

    def _answer(self, frame: Frame) -> None:
        if frame.kind is self.refuses:
            raise ValueError("no such pipe")
        with self._change:
            self.frames.append(frame)
            self._change.notify_all()

    def _wait_for(self, size: int, wanted: Callable[[Frame], object]) -> list[Frame]:
        with self._change:
            assert self._change.wait_for(lambda: len(self._said(wanted)) >= size, _PATIENCE_S)
            return self._said(wanted)

    def _said(self, wanted: Callable[[Frame], object]) -> list[Frame]:
        return [frame for frame in self.frames if wanted(frame)]

    def _run(self, spare: bool = False) -> None:
        try:
            self.pipeline.run(spare=spare)
        except BaseException as error:
            self.ended_by = error


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def make(steps: Steps) -> Iterator[Callable[..., Worker]]:
    workers = []

    def make(**options: float) -> Worker:
        workers.append(Worker(steps, **options))  # type: ignore[arg-type]
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


Make = Callable[..., Worker]


def test_every_image_is_answered_with_its_own_fragment(make: Make) -> None:
    worker = make()
    worker.submit(1, 2, 3)
    worker.start()

    assert worker.answers(3) == {n: Frame(Kind.RESULT, n, b"fragment %d" % n) for n in (1, 2, 3)}


def test_images_are_decoded_inferred_and_encoded_at_the_same_time(make: Make, steps: Steps) -> None:
    steps.hold("encode 1", "infer 2", "decode 3")
    worker = make(size=1, threads=1)
    worker.submit(1, 2, 3)
    worker.start()

    assert steps.reached("encode 1")
    assert steps.reached("infer 2")
    assert steps.reached("decode 3")


def test_as_many_images_are_decoded_at_once_as_there_are_threads(make: Make, steps: Steps) -> None:
    steps.hold("decode 1", "decode 2", "decode 3")

    make(threads=3).submit(1, 2, 3)

    assert all(steps.reached(f"decode {n}") for n in (1, 2, 3))


def test_a_batch_is_settled_when_the_device_is_free(make: Make, steps: Steps) -> None:
    steps.hold("infer 1")
    worker = make()
    worker.start()
    worker.submit(1)
    assert steps.reached("infer 1")

    worker.submit(2, 3)
    worker.submit(4)
    steps.release("infer 1")

    assert worker.started(2) == [(1,), (2, 3, 4)]


def test_a_spare_thread_takes_images_only_while_the_first_is_busy(make: Make, steps: Steps) -> None:
    steps.hold("infer 1", "infer 2")
    worker = make(size=1)
    worker.start_spare()
    worker.submit(1)
    assert not steps.reached("infer 1", within_s=_DOUBT_S)

    worker.start()
    assert steps.reached("infer 1")
    worker.submit(2)
    assert steps.reached("infer 2")
    steps.release("infer 1")
    assert worker.kinds(1) == {1: Kind.RESULT}
    worker.submit(3)

    assert worker.kinds(2) == {1: Kind.RESULT, 3: Kind.RESULT}
    steps.release("infer 2")
    assert worker.kinds(3) == dict.fromkeys((1, 2, 3), Kind.RESULT)


def test_a_spare_thread_rests_when_the_first_is_idle_again(make: Make, steps: Steps) -> None:
    took: list[str] = []
    infer = steps.infer

    def noting(batch: ImageBatch) -> list[Instances]:
        took.append(threading.current_thread().name)
        return infer(batch)

    steps.infer = noting  # type: ignore[method-assign]
    worker = make(size=1)
    worker.start_spare()
    worker.start()

    for job in (1, 2, 3):
        worker.submit(job)
        worker.reports(job)

    assert len(set(took)) == 1


def test_threads_that_decode_and_encode_are_begun_as_asked(make: Make) -> None:
    begun: set[str] = set()
    worker = make(
        threads=1, begin_thread=lambda: begun.add(threading.current_thread().name.split("_")[0])
    )
    worker.start()

    worker.submit(1)
    worker.answers(1)

    assert begun == {"decode", "encode"}


def test_a_batch_has_one_canvas_and_the_first_to_come_is_in_it(make: Make, steps: Steps) -> None:
    steps.canvases = {2: (2, 2)}
    worker = make()
    worker.submit(1, 2, 3)

    worker.start()

    assert worker.started(2) == [(1, 3), (2,)]
    assert steps.reached("infer 1 3")
    assert steps.reached("infer 2")


def test_a_batch_is_as_large_as_it_may_be(make: Make) -> None:
    worker = make(size=2, threads=1)
    worker.submit(1, 2, 3, 4, 5)

    worker.start()

    assert worker.started(3) == [(1, 2), (3, 4), (5,)]


def test_a_batch_keeps_the_order_of_arrival(make: Make, steps: Steps) -> None:
    steps.hold("decode 1")
    worker = make()
    worker.submit(1, 2)
    worker.start()
    assert steps.reached("decode 2")

    steps.release()

    assert worker.started(1) == [(1, 2)]


def test_an_idle_device_waits_for_what_is_being_decoded(make: Make, steps: Steps) -> None:
    steps.hold("decode 2")
    worker = make()
    worker.submit(1, 2)
    worker.start()

    assert not steps.reached("infer 1", _DOUBT_S)
    steps.release()

    assert worker.started(1) == [(1, 2)]


def test_it_waits_no_longer_than_the_delay(make: Make, steps: Steps) -> None:
    steps.hold("decode 2")
    worker = make(delay_s=0.02)
    worker.submit(1, 2)
    worker.start()

    assert steps.reached("infer 1")


def test_it_waits_for_nothing_where_nothing_is_being_decoded(make: Make, steps: Steps) -> None:
    worker = make()
    worker.start()

    worker.submit(1)

    assert steps.reached("infer 1")


def test_a_full_batch_waits_for_nothing(make: Make, steps: Steps) -> None:
    steps.hold("decode 3")
    worker = make(size=2)
    worker.submit(1, 2, 3)
    worker.start()

    assert steps.reached("infer 1 2")


def test_a_bad_image_is_answered_with_why_and_never_in_a_batch(make: Make, steps: Steps) -> None:
    steps.errors["decode 2"] = BadImageError("a torn JPEG")
    worker = make()
    worker.submit(1, 2, 3)
    worker.answers(1)

    worker.start()

    assert worker.answers(3)[2] == Frame(Kind.BAD_IMAGE, 2, b"a torn JPEG")
    assert worker.started(1) == [(1, 3)]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a secret path")])
def test_our_own_failure_to_decode_is_told_to_the_log_alone(
    make: Make, steps: Steps, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    steps.errors["decode 2"] = error
    worker = make()
    worker.submit(1, 2)
    worker.start()

    assert worker.answers(2)[2] == Frame(Kind.FAILED, 2)
    assert worker.kinds(2)[1] is Kind.RESULT
    assert type(error).__name__ in caplog.text


def test_the_device_stops_waiting_for_an_image_that_fails(make: Make, steps: Steps) -> None:
    steps.hold("decode 2")
    steps.errors["decode 2"] = BadImageError("torn")
    worker = make()
    worker.submit(1, 2)
    worker.start()
    assert not steps.reached("infer 1", _DOUBT_S)

    steps.release()

    assert steps.reached("infer 1")


def test_a_job_given_up_is_not_decoded(make: Make, steps: Steps) -> None:
    steps.hold("decode 1")
    worker = make(threads=1)
    worker.submit(1, 2)
    worker.start()

    worker.pipeline.cancel(2)
    worker.submit(3)
    steps.release()

    assert worker.kinds(2) == {1: Kind.RESULT, 3: Kind.RESULT}
    assert not steps.reached("decode 2", 0)


def test_a_job_given_up_does_not_reach_the_device(make: Make, steps: Steps) -> None:
    steps.hold("infer 1")
    worker = make(threads=1)
    worker.start()
    worker.submit(1)
    assert steps.reached("infer 1")
    worker.submit(2, 3)
    assert steps.reached("decode 3")  # so 2 is decoded

    worker.pipeline.cancel(2)
    steps.release()

    assert worker.kinds(2) == {1: Kind.RESULT, 3: Kind.RESULT}
    assert worker.started(2) == [(1,), (3,)]


def test_a_job_given_up_while_it_is_decoded_is_dropped(make: Make, steps: Steps) -> None:
    steps.hold("decode 1")
    worker = make(threads=1)
    worker.submit(1, 2)
    worker.start()
    assert steps.reached("decode 1")

    worker.pipeline.cancel(1)
    steps.release()

    assert worker.kinds(1) == {2: Kind.RESULT}
    assert worker.started(1) == [(2,)]


def test_the_device_stops_waiting_for_a_job_given_up(make: Make, steps: Steps) -> None:
    steps.hold("decode 2")
    worker = make()
    worker.submit(1, 2)
    worker.start()
    assert not steps.reached("infer 1", _DOUBT_S)

    worker.pipeline.cancel(2)

    assert steps.reached("infer 1")


def test_giving_up_what_is_on_the_device_or_unknown_harms_nobody(make: Make, steps: Steps) -> None:
    steps.hold("infer 1 2")
    worker = make()
    worker.submit(1, 2)
    worker.start()
    assert steps.reached("infer 1 2")

    worker.pipeline.cancel(1)
    worker.pipeline.cancel(99)
    steps.release()

    assert worker.kinds(2)[2] is Kind.RESULT
    worker.submit(3)
    assert worker.kinds(3)[3] is Kind.RESULT


def test_the_parent_hears_what_is_on_the_device_before_it_is_done(make: Make, steps: Steps) -> None:
    steps.hold("infer 7 3 5")
    worker = make()
    worker.submit(7, 3, 5)

    worker.start()

    assert worker.started(1) == [(7, 3, 5)]
    assert [frame.kind for frame in worker.frames] == [Kind.STARTED]


def test_a_batch_is_reported_when_all_of_it_is_answered(make: Make, steps: Steps) -> None:
    steps.canvases = {1: (2, 2), 2: (2, 2)}
    steps.hold("encode 1")
    worker = make()
    worker.submit(1, 2)
    worker.start()
    worker.answers(1)
    assert [frame.kind for frame in worker.frames] == [Kind.STARTED, Kind.RESULT]

    steps.release()

    (report,) = worker.reports(1)
    assert worker.frames[-1].kind is Kind.REPORT
    assert len(worker.frames) == 4
    assert {stage: len(times) for stage, times in report.stage_s.items()} == {
        "decode": 2,
        "infer": 1,
        "encode": 2,
    }
    assert all(time > 0 for times in report.stage_s.values() for time in times)
    assert (report.sizes, report.objects, report.padding_ratio) == ([2], [0, 0], 0.75)
    assert (report.out_of_memory, report.retries, report.device_memory_bytes) == (0, 0, 77)


def test_an_image_that_fails_on_the_device_fails_alone(make: Make, steps: Steps) -> None:
    steps.errors = {"infer 1 2": ValueError("culprit"), "infer 1": ValueError("culprit")}
    worker = make()
    worker.submit(1, 2)

    worker.start()

    assert worker.answers(2) == {1: Frame(Kind.FAILED, 1), 2: Frame(Kind.RESULT, 2, b"fragment 2")}
    (report,) = worker.reports(1)
    assert (report.sizes, report.objects, report.retries) == ([1], [0], 2)


def test_a_shortage_of_memory_on_the_device_is_reported(make: Make, steps: Steps) -> None:
    steps.errors["infer 1 2"] = torch.OutOfMemoryError("too many")
    worker = make()
    worker.submit(1, 2)

    worker.start()

    assert set(worker.kinds(2).values()) == {Kind.RESULT}
    assert worker.reports(1)[0].out_of_memory == 1


@pytest.mark.parametrize("error", [MemoryError(), ValueError("no such class")])
def test_an_image_that_cannot_be_encoded_fails_alone(
    make: Make, steps: Steps, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    steps.errors["encode 2"] = error
    worker = make()
    worker.submit(1, 2, 3)

    worker.start()

    assert worker.kinds(3) == {1: Kind.RESULT, 2: Kind.FAILED, 3: Kind.RESULT}
    assert worker.answers(3)[2].payload == b""
    assert worker.reports(1)[0].sizes == [3]
    assert type(error).__name__ in caplog.text


def test_the_device_waits_where_encoding_cannot_keep_up(make: Make, steps: Steps) -> None:
    steps.hold("encode 1")
    worker = make(size=1, threads=1)
    worker.submit(1, 2, 3, 4)
    worker.start()

    assert steps.reached("infer 3")  # its image would be the third that waits
    assert not steps.reached("infer 4", _DOUBT_S)
    steps.release()

    assert len(worker.kinds(4)) == 4


def test_failures_to_encode_do_not_use_up_the_room(make: Make, steps: Steps) -> None:
    steps.errors = {f"encode {n}": ValueError("no") for n in range(1, 6)}
    worker = make(size=1)
    worker.submit(1, 2, 3, 4, 5)
    worker.start()

    assert set(worker.kinds(5).values()) == {Kind.FAILED}


def test_the_pixels_of_a_batch_are_freed_when_the_device_is_done(make: Make, steps: Steps) -> None:
    steps.hold("encode 1", "encode 2")
    worker = make()
    worker.submit(1, 2)

    worker.start()
    assert steps.reached("encode 2")

    gc.collect()
    assert [steps.pixels[n]() for n in (1, 2)] == [None, None]


@pytest.mark.parametrize("step", ["decode 1", "encode 1"])
def test_what_stops_a_thread_ends_the_run(make: Make, steps: Steps, step: str) -> None:
    steps.errors[step] = bug = EndOfTest()
    worker = make()
    worker.start()

    worker.submit(1)

    assert worker.join() is bug


def test_it_ends_a_run_that_waits_for_the_encoding(make: Make, steps: Steps) -> None:
    steps.hold("encode 1")
    steps.errors["encode 1"] = bug = EndOfTest()
    worker = make(size=1, threads=1)
    worker.submit(1, 2, 3, 4)
    worker.start()
    assert steps.reached("infer 3")
    assert not steps.reached("infer 4", _DOUBT_S)

    steps.release()

    assert worker.join() is bug


@pytest.mark.parametrize("kind", [Kind.STARTED, Kind.RESULT, Kind.BAD_IMAGE, Kind.REPORT])
def test_an_answer_that_cannot_be_given_ends_the_run(make: Make, steps: Steps, kind: Kind) -> None:
    steps.errors["decode 2"] = BadImageError("torn")
    worker = make()
    worker.refuses = kind
    worker.submit(1, 2)
    worker.start()

    assert isinstance(worker.join(), ValueError)


def test_a_lost_device_ends_the_run(
    make: Make, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "infer", None)  # raises whatever it is called with
    worker = make()
    worker.pipeline._isolation._check_device = lose  # type: ignore[method-assign]
    worker.start()

    worker.submit(1)

    assert isinstance(worker.join(), DeviceLostError)


def lose() -> None:
    raise DeviceLostError("an illegal memory access")
