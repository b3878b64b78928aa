import pytest

from service.dispatch.pace import Pace


def test_the_pace_is_unknown_until_an_image_is_done() -> None:
    pace = Pace()
    pace.begin(10.0)

    assert pace.seconds_per_image() is None


def test_the_pace_is_the_time_since_there_was_something_to_do_by_the_images_done() -> None:
    pace = Pace()
    pace.begin(10.0)
    for _ in range(4):  # a batch
        pace.note(12.0)

    assert pace.seconds_per_image() == pytest.approx(0.5)


def test_idle_time_is_not_slowness() -> None:
    pace = Pace()
    pace.begin(0.0)
    pace.note(1.0)

    pace.begin(1000.0)
    pace.note(1002.0)

    assert pace.seconds_per_image() == pytest.approx(2.0)


def test_after_idle_time_the_old_pace_holds_until_there_is_a_new_one() -> None:
    pace = Pace()
    pace.begin(0.0)
    pace.note(3.0)

    pace.begin(1000.0)
    pace.begin(2000.0)  # what came at 1000 was cancelled

    assert pace.seconds_per_image() == pytest.approx(3.0)


def test_only_the_last_images_count() -> None:
    pace = Pace()
    pace.begin(0.0)
    for second in range(1, 1000):
        pace.note(float(second))
    for image in range(1, 65):
        pace.note(999 + image / 10)

    assert pace.seconds_per_image() == pytest.approx(0.1)
