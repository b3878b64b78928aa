"""The only place that wires the HTTP process together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from service.dispatch.dispatcher import Dispatcher, LocalDispatcher
from service.errors import BodyTimeoutError, BodyTooLargeError, ServiceError
from service.settings import Settings
from service.web.body import ClosingResponse
from service.web.middleware import REQUEST_ID, RequestMiddleware
from service.web.routes import router

# Azure's words for what the router refuses.
_ROUTER_MESSAGES = {
    404: "The requested URL was not found on the server. If you entered the URL manually please "
    "check your spelling and try again.",
    405: "The method is not allowed for the requested URL.",
}
_BUG_MESSAGE = "An unexpected internal error occurred. Check the logs for more info."


def create_app(settings: Settings, dispatcher: Dispatcher | None = None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        settings: The deployment's.
        dispatcher: Where images go; this machine's worker processes unless given. It is started
            and stopped with the application.
    """
    app = FastAPI(lifespan=_lifespan, redirect_slashes=False, openapi_url=None)
    app.state.settings = settings
    app.state.dispatcher = dispatcher or LocalDispatcher(settings)
    app.include_router(router)
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_router_error)
    app.add_exception_handler(Exception, _on_bug)
    app.add_middleware(RequestMiddleware)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    dispatcher: Dispatcher = app.state.dispatcher
    await dispatcher.start()
    try:
        yield
    finally:
        await dispatcher.stop()


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    request.state.record.reason = error.reason
    headers = {"x-ms-run-function-failed": str(error.run_failed)}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    unread = isinstance(error, BodyTooLargeError | BodyTimeoutError)
    kind = ClosingResponse if unread else Response
    return kind(_message(str(error)), error.status, headers, "application/json")


async def _on_router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    request.state.record.reason = "not_routed"
    message = _ROUTER_MESSAGES.get(error.status_code, error.detail)
    headers = {"x-ms-run-function-failed": "False", **(error.headers or {})}
    return Response(_message(message), error.status_code, headers, "application/json")


async def _on_bug(request: Request, _error: Exception) -> Response:
    # Starlette answers with this from outside every middleware, then raises the error again for
    # the log; the id must be put on by hand.
    headers = {"x-ms-run-function-failed": "False", REQUEST_ID: request.state.record.request_id}
    return Response(_message(_BUG_MESSAGE), 500, headers, "application/json")


def _message(text: str) -> bytes:
    return orjson.dumps({"message": text})
