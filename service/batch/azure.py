"""What Azure Machine Learning's batch deployments call: ``init``, then ``run`` over and over."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from service.batch.results import Result
from service.batch.scoring import open_scorer
from service.batch.sources import Item, as_text
from service.settings import Settings

T = TypeVar("T")


class _Engine:
    """A scorer whose event loop, in a thread of its own, goes on between the calls."""

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

    def score(self, paths: Sequence[str]) -> list[Result]:
        results: dict[str, Result] = {}
        names = [as_text(path) for path in paths]
        items = map(Item, names, map(Path, paths))
        self._wait(self._scorer.score(items, lambda r: results.update({r.name: r})))
        return [results[name] for name in names]

    def close(self) -> None:
        self._wait(self._opened.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


_engine: _Engine | None = None


def init() -> None:
    """Start the workers of this machine's devices.

    Raises:
        BatchError: The model or a device cannot be used.
        SettingsError: A variable cannot.
    """
    global _engine
    _engine = _Engine(Settings.load())


def run(mini_batch: Sequence[str]) -> list[str]:
    """One line of JSON for each file, in their order: its path, and its boxes or its error."""
    assert _engine is not None, "init() comes first"
    return [result.line().decode() for result in _engine.score(mini_batch)]


def shutdown() -> None:
    """End the workers, which otherwise end with the process."""
    global _engine
    if _engine is not None:
        _engine.close()
    _engine = None
