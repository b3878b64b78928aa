"""How many bytes of requests this process holds at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import TooManyBytesError


class ByteBudget:
    """Shared by all requests: many of a legal size must not fill the memory together."""

    def __init__(self, limit: int, retry_after_s: Callable[[], int] = lambda: 1) -> None:
        self._free = limit
        self._retry_after_s = retry_after_s

    @contextmanager
    def account(self) -> Iterator["Account"]:
        """What one request holds; given back when it ends, however it ends."""
        account = Account(self)
        try:
            yield account
        finally:
            self._free += account.held

    def _take(self, size: int) -> None:
        if size > self._free:
            raise TooManyBytesError(self._retry_after_s())
        self._free -= size


class Account:
    """The bytes one request holds."""

    def __init__(self, budget: ByteBudget) -> None:
        self.held = 0
        self._budget = budget

    def add(self, size: int) -> None:
        """Hold that many more.

        Raises:
            TooManyBytesError: All requests together hold too many already.
        """
        self._budget._take(size)
        self.held += size

    def keep(self, size: int) -> None:
        """Hold only that many from now on."""
        self._budget._take(size - self.held)
        self.held = size
