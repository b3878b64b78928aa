"""A batch scorer for callers that have no event loop."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from service.batch.results import Result
from service.batch.scoring import open_scorer
from service.batch.sources import Item
from service.settings import Settings

T = TypeVar("T")


class Engine:
    """The workers of this machine; their event loop, in a thread of its own, outlives the calls.

    Raises:
        BatchError: The model or a device cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._opened = AsyncExitStack()
        try:
            self._scorer = self._wait(self._opened.enter_async_context(open_scorer(settings)))
        except BaseException:
            self.close()
            raise

    def score(self, items: Sequence[Item]) -> list[Result]:
        """The results in the order of the items, whose names may repeat.

        Raises:
            BatchError: The workers cannot go on.
        """
        results: dict[str, Result] = {}
        self._wait(self._scorer.score(iter(items), lambda r: results.update({r.name: r})))
        return [results[item.name] for item in items]

    def close(self) -> None:
        self._wait(self._opened.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
