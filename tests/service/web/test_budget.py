import contextlib

import pytest

from service.errors import TooManyBytesError
from service.web.budget import ByteBudget


def test_requests_together_hold_no_more_than_the_limit() -> None:
    budget = ByteBudget(10)

    with budget.account() as first, budget.account() as second:
        first.add(6)
        second.add(4)

        with pytest.raises(TooManyBytesError, match="retry shortly"):
            second.add(1)


def test_what_a_request_held_is_free_once_it_has_ended_or_failed() -> None:
    budget = ByteBudget(10)
    with contextlib.suppress(TooManyBytesError), budget.account() as account:
        account.add(10)
        account.add(1)

    with budget.account() as account:
        account.add(10)

        assert account.held == 10


def test_what_is_no_longer_kept_is_free_for_others() -> None:
    budget = ByteBudget(10)

    with budget.account() as first, budget.account() as second:
        first.add(8)
        first.keep(6)
        second.add(4)

        assert first.held == 6
    with budget.account() as account:
        account.add(10)


def test_who_is_refused_is_told_when_to_come_back() -> None:
    with ByteBudget(10, lambda: 33).account() as account, pytest.raises(TooManyBytesError) as error:
        account.add(11)

    assert error.value.retry_after_s == 33
