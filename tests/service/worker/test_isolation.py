import gc
import logging
import weakref
from collections.abc import Callable, Collection

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.structures import Geometry, ImageBatch, Instances, MaskCrops
from service.worker import isolation as module
from service.worker.isolation import DeviceLostError, Isolation, Outcome

Canvas = tuple[int, int]


def image(number: int, canvas: Canvas = (1, 1)) -> ImageBatch:
    return ImageBatch(torch.full((1, 3, *canvas), number), (Geometry((1, 1), (1, 1), canvas),))


def images(size: int, canvas: Canvas = (1, 1)) -> list[ImageBatch]:
    return [image(number, canvas) for number in range(size)]


def numbers(batch: ImageBatch) -> list[int]:
    assert len(batch.pixels) == len(batch.geometries)
    return [int(pixels[0, 0, 0]) for pixels in batch.pixels]


def found(number: int) -> Instances:
    """Nothing, in a picture as high as its number."""
    none = np.zeros(0)
    return Instances(none, none, none, MaskCrops(()), height=number, width=1)


def seen(outcome: Outcome) -> list[int | None]:
    return [None if one is None else one.height for one in outcome.instances]


class Device:
    """Runs batches of images that it can stand, up to a size."""

    def __init__(self, *, fits: int = 100, culprits: Collection[int] = ()) -> None:
        self.fits = fits
        self.culprits = culprits
        self.batches: list[list[int]] = []

    def infer(self, batch: ImageBatch) -> list[Instances]:
        self.batches.append(numbers(batch))
        if len(batch.pixels) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if any(number in self.culprits for number in numbers(batch)):
            raise ValueError("a picture this model cannot stand")
        return [found(number) for number in numbers(batch)]

    def sizes(self) -> list[int]:
        """Of the batches since the last call."""
        sizes = [len(batch) for batch in self.batches]
        self.batches.clear()
        return sizes


def test_a_batch_runs_as_one() -> None:
    device = Device()

    outcome = Isolation(device.infer, "cpu").run(images(3))

    assert seen(outcome) == [0, 1, 2]
    assert device.batches == [[0, 1, 2]]
    assert (outcome.retries, outcome.out_of_memory) == (0, 0)


def test_the_culprit_alone_fails_and_is_searched_for_by_halves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = Device(culprits={2})

    outcome = Isolation(device.infer, "cpu").run(images(4))

    assert seen(outcome) == [0, 1, None, 3]
    assert device.batches == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]
    assert (outcome.retries, outcome.out_of_memory) == (4, 0)
    assert "a picture this model cannot stand" in caplog.text


def test_a_culprit_lowers_no_limit() -> None:
    device = Device(culprits={2})
    isolation = Isolation(device.infer, "cpu")
    isolation.run(images(4))
    device.culprits = ()
    device.sizes()

    isolation.run(images(4))

    assert device.sizes() == [4]


@given(st.integers(1, 12), st.sets(st.integers(0, 11)), st.integers(1, 12))
def test_all_others_get_what_they_would_have_got_alone(
    size: int, culprits: set[int], fits: int
) -> None:
    logging.getLogger(module.__name__).disabled = True
    device = Device(fits=fits, culprits=culprits)
    isolation = Isolation(device.infer, "cpu")
    isolation._free_memory = lambda: None  # type: ignore[method-assign]  # it takes its time
    expected = [None if number in culprits else number for number in range(size)]

    outcomes = [isolation.run(images(size)) for _ in range(2)]

    logging.getLogger(module.__name__).disabled = False
    assert [seen(outcome) for outcome in outcomes] == [expected, expected]
    assert outcomes[1].out_of_memory == 0


@pytest.mark.parametrize(("size", "fits", "safe"), [(8, 4, 4), (8, 3, 2), (5, 3, 3), (3, 2, 2)])
def test_a_size_that_fits_is_found_by_halves_and_remembered(
    size: int, fits: int, safe: int
) -> None:
    device = Device(fits=fits)
    isolation = Isolation(device.infer, "cpu")

    first, second = isolation.run(images(size)), isolation.run(images(size))

    assert seen(first) == seen(second) == [*range(size)]
    assert first.out_of_memory > 0
    assert second.out_of_memory == 0
    assert sum(second.sizes) == size
    assert max(second.sizes) == safe
    device.sizes()
    isolation.run(images(size))
    assert max(device.sizes()) == safe


def test_the_size_is_remembered_for_its_canvas_alone() -> None:
    device = Device(fits=2)
    isolation = Isolation(device.infer, "cpu")
    isolation.run(images(4, (1, 1)))
    device.fits = 4
    device.sizes()

    isolation.run(images(4, (2, 1)))
    isolation.run(images(4, (1, 1)))

    assert device.sizes() == [4, 2, 2]


def test_an_image_too_large_by_itself_fails_by_itself() -> None:
    device = Device(fits=0)

    outcome = Isolation(device.infer, "cpu").run(images(2))

    assert seen(outcome) == [None, None]
    assert outcome.out_of_memory == 3


def test_the_size_is_raised_slowly_and_never_above_what_was_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(module, "_SUCCESSES_TO_GROW", 3)
    device = Device(fits=1)
    isolation = Isolation(device.infer, "cpu")
    isolation.run(images(3))  # 1 is safe
    device.fits = 100
    device.sizes()
    largest = []
    for _ in range(12):
        isolation.run(images(3))
        largest.append(max(device.sizes()))

    assert largest == [1] + 3 * [2] + 8 * [3]
    assert caplog.text.count("batch_limit_raised") == 2


def test_parts_that_fill_no_batch_do_not_raise_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SUCCESSES_TO_GROW", 1)
    device = Device(fits=4)
    isolation = Isolation(device.infer, "cpu")
    isolation.run(images(8))
    for _ in range(5):
        isolation.run(images(3))
    device.sizes()

    isolation.run(images(8))

    assert max(device.sizes()) == 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["torch", "python", "machine", "runtime", "cublas"],
)
def test_memory_runs_out_in_many_words(error: Exception) -> None:
    sizes = []

    def infer(batch: ImageBatch) -> list[Instances]:
        sizes.append(len(batch.pixels))
        if sizes[-1] > 1:
            raise error
        return [found(0)]

    isolation = Isolation(infer, "cpu")

    assert isolation.run(images(2)).out_of_memory == 1
    isolation.run(images(2))
    assert sizes == [2, 1, 1, 1, 1]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, ValueError])
def test_nothing_keeps_a_failed_batch_alive_while_its_halves_run(error: type[Exception]) -> None:
    tensors: list[weakref.ref[torch.Tensor]] = []
    alive = []

    def infer(batch: ImageBatch) -> list[Instances]:
        alive.append(sum(tensor() is not None for tensor in tensors))
        work = batch.pixels + 1
        tensors.append(weakref.ref(work))
        if len(batch.pixels) > 1:
            tensors.append(weakref.ref(batch.pixels))
            raise error("no")
        return [found(0)]

    logging.getLogger(module.__name__).disabled = True  # pytest keeps what is logged
    gc.disable()
    try:
        Isolation(infer, "cpu").run(images(4))
    finally:
        gc.enable()
        logging.getLogger(module.__name__).disabled = False

    assert alive == 7 * [0]


def test_memory_held_in_cycles_is_freed_before_the_retry() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    cycles: list[weakref.ref[Cycle]] = []

    def infer(batch: ImageBatch) -> list[Instances]:
        assert all(cycle() is None for cycle in cycles)
        if len(batch.pixels) > 1:
            cycles.append(weakref.ref(Cycle()))
            raise torch.OutOfMemoryError
        return [found(0)]

    gc.disable()
    try:
        outcome = Isolation(infer, "cpu").run(images(2))
    finally:
        gc.enable()

    assert seen(outcome) == [0, 0]


class Cuda:
    """What the isolation asks of torch.cuda, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.lost = False
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: self.calls.append("empty"))

    def synchronize(self, device: torch.device) -> None:
        self.calls.append(f"synchronize {device}")
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access\nCompile with ...")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def test_a_lost_device_is_no_images_fault(cuda: Cuda) -> None:
    device = Device(culprits={1})
    cuda.lost = True

    with pytest.raises(DeviceLostError, match=r"^CUDA error: an illegal memory access$"):
        Isolation(device.infer, "cuda:3").run(images(2))

    assert device.batches == [[0, 1]]
    assert cuda.calls == ["synchronize cuda:3"]


def test_the_devices_cache_is_emptied_before_the_retry(cuda: Cuda) -> None:
    device = Device(fits=1)

    outcome = Isolation(device.infer, "cuda:0").run(images(2))

    assert seen(outcome) == [0, 1]
    assert cuda.calls == ["synchronize cuda:0", "empty"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_not_held_up(stop: Callable[[], BaseException]) -> None:
    def infer(batch: ImageBatch) -> list[Instances]:
        raise stop()

    with pytest.raises(BaseException) as caught:  # noqa: PT011
        Isolation(infer, "cpu").run(images(2))

    assert caught.type is stop
