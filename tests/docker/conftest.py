"""A service without workers, for what deployments ask of it."""

import asyncio
from collections.abc import Sequence

import pytest

from service.dispatch.dispatcher import Health
from service.protocol import EncodedImage
from service.settings import Settings
from service.worker.stages import Stages, load_predictor


class InlineDispatcher:
    """Says what ``reasons`` says, and scores with the shipped model where it is asked to."""

    def __init__(self) -> None:
        self.reasons = Health()

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def retry_after_s(self) -> int:
        return 1

    def health(self) -> Health:
        return self.reasons

    def submit(self, images: Sequence[EncodedImage]) -> list[asyncio.Future[bytes]]:
        stages = Stages(load_predictor(Settings(), "cpu"), Settings())
        return [asyncio.ensure_future(asyncio.to_thread(stages.score, i.data)) for i in images]


@pytest.fixture
def dispatcher() -> InlineDispatcher:
    return InlineDispatcher()


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOLOV2_WEIGHTS", "AZUREML_MODEL_DIR", "SCORING_TIMEOUT_MS"):
        monkeypatch.delenv(name, raising=False)
