"""Fakes and pictures that the service's tests share."""

import asyncio
import base64
import io
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np
import pytest
import uvicorn
from PIL import Image
from tiny import save_tiny

from model.config import VARIANTS, SOLOv2Config
from model.preprocess import preprocess
from model.structures import ImageBatch, Instances, MaskCrops
from service.dispatch.dispatcher import Dispatcher, Health
from service.protocol import EncodedImage
from service.settings import Settings
from service.web.app import create_app
from service.web.connection import BoundedHttpProtocol
from service.worker.stages import Stages


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOLOV2_WEIGHTS", "AZUREML_MODEL_DIR", "SCORING_TIMEOUT_MS"):
        monkeypatch.delenv(name, raising=False)


def encode(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def body(*images: bytes) -> dict[str, Any]:
    """The canonical request for some image files."""
    rows = [base64.b64encode(image).decode() for image in images]
    return {"input_data": {"columns": ["image"], "index": [*range(len(rows))], "data": rows}}


@pytest.fixture(name="encode")
def encode_fixture() -> Callable[..., bytes]:
    return encode


@pytest.fixture(name="body")
def body_fixture() -> Callable[..., dict[str, Any]]:
    return body


@pytest.fixture
def photo() -> bytes:
    """A small JPEG that anybody can decode."""
    return encode(Image.new("RGB", (64, 48), (200, 30, 60)), "JPEG")


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained network that finds people and cats all over any picture."""
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


class FakePredictor:
    """Finds one person in the middle of every picture."""

    config: SOLOv2Config = VARIANTS["mobile"]

    def prepare(self, images: Sequence[np.ndarray]) -> ImageBatch:
        return preprocess(images, self.config.preprocess)

    def predict_batch(self, batch: ImageBatch) -> list[Instances]:
        return [self._middle(*geometry.original) for geometry in batch.geometries]

    def _middle(self, height: int, width: int) -> Instances:
        x1, y1, x2, y2 = width // 4, height // 4, width - width // 4, height - height // 4
        return Instances(
            np.array([0.9], np.float32),
            np.array([0]),
            np.array([(x1, y1, x2, y2)]),
            MaskCrops.pack([np.ones((y2 - y1, x2 - x1), np.bool_)]),
            height,
            width,
        )


@pytest.fixture
def fake_predictor() -> FakePredictor:
    return FakePredictor()


class StagesDispatcher:
    """The worker's own stages around the fake predictor, without the process."""

    def __init__(self) -> None:
        self.stages = Stages(FakePredictor(), Settings())

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def retry_after_s(self) -> int:
        return 7

    def health(self) -> Health:
        return Health()

    def submit(self, images: Sequence[EncodedImage]) -> list[asyncio.Future[bytes]]:
        return [asyncio.ensure_future(self._score(image)) for image in images]

    async def _score(self, image: EncodedImage) -> bytes:
        return await anyio.to_thread.run_sync(self.stages.score, image.data)


@pytest.fixture(scope="session")
def stages_dispatcher() -> StagesDispatcher:
    return StagesDispatcher()


class FakeDispatcher:
    """Answers with the image's size; does what its fields say otherwise."""

    def __init__(self) -> None:
        self.reasons = Health()
        self.error: Exception | None = None
        self.scored: list[EncodedImage] = []
        self.events: list[str] = []

    async def start(self) -> None:
        self.events.append("started")

    async def stop(self) -> None:
        self.events.append("stopped")

    def retry_after_s(self) -> int:
        return 7

    def health(self) -> Health:
        return self.reasons

    def submit(self, images: Sequence[EncodedImage]) -> list[asyncio.Future[bytes]]:
        return [self._answer(image) for image in images]

    def _answer(self, image: EncodedImage) -> asyncio.Future[bytes]:
        self.scored.append(image)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self.error is None:
            answer.set_result(b"[%d,%d]" % (image.width, image.height))
        else:
            answer.set_exception(self.error)
        return answer


@pytest.fixture
def dispatcher() -> FakeDispatcher:
    return FakeDispatcher()


class _QuietServer(uvicorn.Server):
    def __init__(self, settings: Settings, dispatcher: Dispatcher) -> None:
        app = create_app(settings, dispatcher)
        config = uvicorn.Config(
            app, http=BoundedHttpProtocol, log_config=None, ws="none", access_log=False
        )
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def _serve_in_thread(settings: Settings, dispatcher: Dispatcher) -> Iterator[str]:
    server = _QuietServer(settings, dispatcher)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert server.ready.wait(10)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="session")
def serve_in_thread() -> Callable[[Settings, Dispatcher], AbstractContextManager[str]]:
    """A real server on a real socket; the value is its address."""
    return _serve_in_thread
