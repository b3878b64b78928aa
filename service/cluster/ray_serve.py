"""The service on Ray Serve: the web application, and replicas of workers that come and go.

``service.cluster.ray_serve:build`` is the application; ``docker/ray/serve.yaml`` deploys it.
"""

import asyncio
import logging
import sys
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.cluster.dispatcher import ClusterDispatcher, ReplicaLostError
from service.dispatch.dispatcher import LocalDispatcher, outcome_of
from service.errors import BadImageError, QueueFullError, ScoringError, UnavailableError
from service.logs import configure_logging
from service.metrics import Metrics
from service.protocol import EncodedImage, Frame, Kind
from service.settings import Settings
from service.web.app import create_app
from service.web.middleware import REQUEST_ID

logger = logging.getLogger(__name__)

# What waits is bounded by the settings, in images and bytes.
_MAX_REQUESTS = 1024

_NO_DEADLINE_MS = 24 * 3600 * 1000
_LOOK_EVERY_S = 5  # whether a replica is well
_ASK_AGAIN_S = 0.05
_COUNT_TIMEOUT_S = 10.0


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application, as ``serve run`` and ``serve deploy`` want it.

    Args:
        arguments: Settings by their names, as ``max_batch_size``; the rest comes from the
            ``SOLOV2_*`` variables of the machine that deploys.

    Raises:
        SettingsError: One cannot be used.
    """
    settings = Settings.load(**arguments)
    room = room_of(settings)
    worker = serve.deployment(
        Worker,
        max_ongoing_requests=room,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": 8,
            "target_ongoing_requests": settings.max_batch_size,
        },
        health_check_period_s=_LOOK_EVERY_S,
        graceful_shutdown_timeout_s=settings.grace_s,
    )
    web = serve.deployment(
        serve.ingress()(Web),
        max_ongoing_requests=_MAX_REQUESTS,
        graceful_shutdown_timeout_s=settings.grace_s,
    )
    return web.bind(settings, worker.bind(settings))


def room_of(settings: Settings) -> int:
    """Images that a replica holds: a batch on its device, and the one after that."""
    return 2 * settings.max_batch_size


class Worker:
    """The workers of the devices that Ray gives to one replica."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray awaits it
        configure_logging(sys.stderr)
        # Whoever asks has a deadline, and takes back what it will not wait for.
        no_deadline = settings.model_copy(update={"scoring_timeout_ms": _NO_DEADLINE_MS})
        self._dispatcher = LocalDispatcher(no_deadline)
        await self._dispatcher.start()
        try:
            while self._dispatcher.health().unready is not None:
                await self.check_health()
                await asyncio.sleep(_ASK_AGAIN_S)
        except BaseException:
            await self._dispatcher.stop()
            raise

    async def score(self, image: EncodedImage) -> Frame | None:
        """What a worker answers; None where none takes images now."""
        try:
            [answer] = self._dispatcher.submit([image])
            return Frame(Kind.RESULT, payload=await answer)
        except BadImageError as error:
            return Frame(Kind.BAD_IMAGE, payload=str(error).encode())
        except ScoringError:
            return Frame(Kind.FAILED)
        except (UnavailableError, QueueFullError):
            return None

    async def check_health(self) -> None:
        """Ray replaces a replica for which this fails three times in a row."""
        health = self._dispatcher.health()
        if why := self._dispatcher.failure or health.dead:
            raise RuntimeError(why)

    async def __del__(self) -> None:
        await self._dispatcher.stop()


class Web:
    """The web application, its images going to the replicas of ``Worker``."""

    def __init__(self, settings: Settings, worker: DeploymentHandle) -> None:
        configure_logging(sys.stderr)
        self._settings = settings
        self._worker = worker

    def __serve_build_asgi_app__(self) -> ASGIApp:
        metrics = Metrics()
        dispatcher = ClusterDispatcher(
            self._settings, metrics, ServeReplicas(self._worker), room=room_of(self._settings)
        )
        return _without_request_id(create_app(self._settings, dispatcher, metrics))


def _without_request_id(app: ASGIApp) -> ASGIApp:
    """Ray's proxy puts that header on every answer; ours, of the same value, would be a second."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_less(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[REQUEST_ID]
            await send(message)

        await app(scope, receive, send_less)

    return wrapped


class ServeReplicas:
    """The replicas of a deployment."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def score(self, image: EncodedImage) -> bytes:
        response = self._handle.score.remote(image)
        try:
            frame: Frame | None = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except RayTaskError as error:
            logger.exception("a replica failed at an image of %d bytes", len(image.data))
            raise ScoringError from error
        except (RayError, RayServeException) as error:
            raise ReplicaLostError(type(error).__name__) from error
        if frame is None:
            raise ReplicaLostError("its workers are being replaced")
        outcome = outcome_of(frame)
        if isinstance(outcome, bytes):
            return outcome
        raise outcome

    async def count(self) -> int:
        async with asyncio.timeout(_COUNT_TIMEOUT_S):
            return await asyncio.to_thread(self._running)

    def _running(self) -> int:
        application = serve.status().applications.get(self._handle.app_name)
        deployment = application and application.deployments.get(self._handle.deployment_name)
        states = deployment.replica_states if deployment else {}
        return states.get("RUNNING", 0)
