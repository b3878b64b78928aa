import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.worker.lanes import SharedProcessors, count_lanes

STEP_S = 5  # longer than any step takes


def test_a_lone_image_gets_all_processors_each_time() -> None:
    threads: list[int] = []
    infer = SharedProcessors(lambda batch: [batch], 8, threads.append)

    assert [infer(n) for n in range(3)] == [[0], [1], [2]]
    assert threads == [8, 8, 8]


def test_images_in_company_share_them_and_each_gets_one_at_least() -> None:
    threads: list[int] = []
    all_in = threading.Barrier(4)
    infer = SharedProcessors(lambda _: all_in.wait(STEP_S), 3, threads.append)

    with ThreadPoolExecutor(4) as lanes:
        [*lanes.map(infer, range(4))]

    assert threads == [3, 1, 1, 1]


def test_an_image_that_fails_gives_its_share_back() -> None:
    threads: list[int] = []

    def fails(_: object) -> None:
        raise MemoryError

    infer = SharedProcessors(fails, 2, threads.append)

    for _ in range(2):
        with pytest.raises(MemoryError):
            infer(None)

    assert threads == [2, 2]


@pytest.mark.parametrize(("processors", "lanes"), [(1, 1), (2, 2), (64, 4)])
def test_there_are_no_more_lanes_than_processors_or_memory_for_them(
    processors: int, lanes: int
) -> None:
    assert count_lanes(processors) == lanes
