"""The only place that wires the HTTP process together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from service.dispatch.dispatcher import Dispatcher, LocalDispatcher
from service.metrics import Metrics
from service.settings import Settings
from service.web.answers import RUN_FAILED, message_body
from service.web.budget import ByteBudget
from service.web.cors import CORSMiddleware
from service.web.fetch import Fetcher
from service.web.middleware import PROBES, RequestMiddleware
from service.web.routes import router
from service.web.scoring import Scorer
from service.web.unread import UnreadBodyMiddleware
from service.web.viewer.routes import load_viewer
from service.web.viewer.routes import router as viewer_router

# Azure's words for what the router refuses.
_ROUTER_MESSAGES = {
    404: "The requested URL was not found on the server. If you entered the URL manually please "
    "check your spelling and try again.",
    405: "The method is not allowed for the requested URL.",
}


def create_app(
    settings: Settings, dispatcher: Dispatcher | None = None, metrics: Metrics | None = None
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        settings: The deployment's.
        dispatcher: Where images go; this machine's worker processes unless given. It is started
            and stopped with the application.
        metrics: What ``/metrics`` shows; those of the dispatcher, where one is given.
    """
    app = FastAPI(
        lifespan=_lifespan,
        redirect_slashes=False,
        openapi_url=None,
        telemetry={
            "auto_configure": settings.tracing,
            "tracing": settings.tracing,
            "operation_spans": False,
            "metrics": False,
            "logs": False,  # they would quote what clients sent
            "exclude": lambda scope: scope["path"] in PROBES,
        },
    )
    app.state.settings = settings
    app.state.metrics = metrics or Metrics()
    app.state.dispatcher = dispatcher or LocalDispatcher(settings, app.state.metrics)
    app.state.fetcher = Fetcher(settings)
    app.state.scorer = Scorer(settings, app.state.dispatcher, app.state.fetcher)
    app.state.budget = ByteBudget(settings.max_inflight_bytes, app.state.dispatcher.retry_after_s)
    app.include_router(router)
    if settings.viewer:
        app.state.viewer = load_viewer(settings)
        app.include_router(viewer_router)
    app.add_exception_handler(HTTPException, _on_router_error)
    app.add_middleware(RequestMiddleware, settings=settings, metrics=app.state.metrics)
    app.add_middleware(UnreadBodyMiddleware)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, origins=settings.cors_origins)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    dispatcher: Dispatcher = app.state.dispatcher
    await dispatcher.start()
    try:
        yield
    finally:
        await dispatcher.stop()
        await app.state.fetcher.aclose()


async def _on_router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    request.state.record.reason = "not_routed"
    message = _ROUTER_MESSAGES.get(error.status_code, error.detail)
    headers = {RUN_FAILED: "False", **(error.headers or {})}
    return Response(message_body(message), error.status_code, headers, "application/json")
