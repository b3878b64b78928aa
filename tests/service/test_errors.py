import inspect

import pytest

from service import errors
from service.errors import BadImageError, BadRequestError, ServiceError

ALL_ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ServiceError)
]


def test_a_long_message_is_cut_to_300_characters() -> None:
    assert str(BadRequestError("x" * 300)) == "x" * 300
    assert str(BadRequestError("x" * 301)) == "x" * 299 + "…"


def test_an_image_error_can_say_which_row_it_is_about() -> None:
    error = BadImageError("it is empty").in_row(3)

    assert isinstance(error, BadImageError)
    assert str(error) == "row 3: it is empty"


def test_every_error_has_a_reason_of_its_own() -> None:
    reasons = [kind.reason for kind in ALL_ERRORS]

    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.__name__)
def test_only_a_failure_of_ours_may_say_that_scoring_failed(kind: type[ServiceError]) -> None:
    assert not kind.run_failed or kind.status == 500
