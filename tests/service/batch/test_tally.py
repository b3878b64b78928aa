from service.batch.results import Result
from service.batch.tally import Tally

GOOD, BAD = Result("a"), Result("b", error="no image")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_is_that_of_this_run_from_its_first_result_on() -> None:
    clock = Clock()
    tally = Tally(found=100, clock=clock)
    tally.total = 200

    clock.now = 30
    tally.note(GOOD)
    clock.now = 34
    for result in (GOOD, BAD) * 4:
        tally.note(result)

    assert str(tally) == "109 of 200, 2.0/s, 4 errors, 0:00:46 left"


def test_what_is_not_known_yet_is_left_out() -> None:
    tally = Tally(clock=Clock())
    tally.note(GOOD)

    assert str(tally) == "1, 0 errors"


def test_more_images_than_were_counted_leave_no_negative_time() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.total = 1
    tally.note(GOOD)
    clock.now = 1
    tally.note(GOOD)

    assert str(tally) == "2 of 1, 1.0/s, 0 errors, 0:00:00 left"
