"""What the service answers on each path."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from service.dispatch.dispatcher import Dispatcher
from service.errors import UnavailableError
from service.settings import Settings
from service.web.body import require_json
from service.web.middleware import RequestRecord
from service.web.scoring import read_images, score_all, unless_client_leaves

router = APIRouter()


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _dispatcher(request: Request) -> Dispatcher:
    dispatcher: Dispatcher = request.app.state.dispatcher
    return dispatcher


async def _record(request: Request) -> RequestRecord:
    record: RequestRecord = request.state.record
    return record


SettingsDep = Annotated[Settings, Depends(_settings)]
DispatcherDep = Annotated[Dispatcher, Depends(_dispatcher)]
RecordDep = Annotated[RequestRecord, Depends(_record)]


@router.post("/score")
async def score(
    request: Request, settings: SettingsDep, dispatcher: DispatcherDep, record: RecordDep
) -> Response:
    """Find and outline every object in each image."""
    require_json(request)
    images = await read_images(request, settings, record)
    started = time.perf_counter()
    fragments = await unless_client_leaves(request, score_all(images, dispatcher))
    headers = {
        "x-ms-run-function-failed": "False",
        "x-ms-run-fn-exec-ms": f"{(time.perf_counter() - started) * 1000:.3f}",
    }
    return Response(b"[" + b",".join(fragments) + b"]", 200, headers, "application/json")


@router.api_route("/", methods=["GET", "HEAD"])
async def health(dispatcher: DispatcherDep) -> Response:
    """Azure's probe."""
    _require_available(dispatcher)
    return HTMLResponse("Healthy")


@router.get("/livez")
async def alive() -> Response:
    return PlainTextResponse("alive")


@router.get("/readyz")
async def ready(dispatcher: DispatcherDep) -> Response:
    _require_available(dispatcher)
    return PlainTextResponse("ready")


def _require_available(dispatcher: Dispatcher) -> None:
    refusal = dispatcher.unavailable()
    if refusal is not None:
        raise UnavailableError(refusal)
