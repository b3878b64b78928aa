"""What Azure Machine Learning's batch deployments call: ``init``, then ``run`` over and over."""

from collections.abc import Sequence
from pathlib import Path

from service.batch.engine import Engine
from service.batch.sources import Item, as_text
from service.settings import Settings

_engine: Engine | None = None


def init() -> None:
    """Start the workers of this machine's devices.

    Raises:
        BatchError: The model or a device cannot be used.
        SettingsError: A variable cannot.
    """
    global _engine
    _engine = Engine(Settings.load())


def run(mini_batch: Sequence[str]) -> list[str]:
    """One line of JSON for each file, in their order: its path, and its boxes or its error."""
    assert _engine is not None, "init() comes first"
    items = [Item(as_text(path), Path(path)) for path in mini_batch]
    return [result.line().decode() for result in _engine.score(items)]


def shutdown() -> None:
    """End the workers, which otherwise end with the process."""
    global _engine
    if _engine is not None:
        _engine.close()
    _engine = None
