"""What the service answers on each path."""

import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from service.dispatch.dispatcher import Dispatcher
from service.errors import UnauthorizedError, UnavailableError
from service.metrics import CONTENT_TYPE
from service.settings import Settings
from service.web.answers import RUN_FAILED
from service.web.body import read_body, require_json
from service.web.budget import Account
from service.web.compression import compressed
from service.web.middleware import RequestRecord
from service.web.schemas import images_of_body, images_of_query
from service.web.scoring import Scorer, unless_client_leaves
from service.web.swagger import api_description

router = APIRouter()


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _dispatcher(request: Request) -> Dispatcher:
    dispatcher: Dispatcher = request.app.state.dispatcher
    return dispatcher


async def _scorer(request: Request) -> Scorer:
    scorer: Scorer = request.app.state.scorer
    return scorer


async def _record(request: Request) -> RequestRecord:
    record: RequestRecord = request.state.record
    return record


async def _account(request: Request) -> AsyncIterator[Account]:
    with request.app.state.budget.account() as account:
        yield account


async def _authorized(request: Request) -> None:
    """As Azure's endpoints ask: ``Authorization: Bearer KEY``, compared in constant time."""
    expected = request.app.state.settings.api_key
    if expected is None:
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    sent = key.strip().encode("latin-1")  # the bytes of the header again
    same = secrets.compare_digest(sent, expected.get_secret_value().encode())
    if scheme.lower() != "bearer" or not same:
        raise UnauthorizedError


SettingsDep = Annotated[Settings, Depends(_settings)]
DispatcherDep = Annotated[Dispatcher, Depends(_dispatcher)]
ScorerDep = Annotated[Scorer, Depends(_scorer)]
RecordDep = Annotated[RequestRecord, Depends(_record)]
AccountDep = Annotated[Account, Depends(_account)]


@router.api_route("/score", methods=["GET", "POST"], dependencies=[Depends(_authorized)])
async def score(
    request: Request,
    settings: SettingsDep,
    scorer: ScorerDep,
    record: RecordDep,
    account: AccountDep,
) -> Response:
    """Find and outline every object in each image.

    POST takes the table as JSON body, GET as the argument ``input_data`` of the query.
    """
    if request.method == "POST":
        require_json(request)
    # A body that nobody could score need not be read.
    _require_none(scorer.dispatcher.health().refusing)
    with record.stage("read"):
        body = await read_body(request, settings, account)
        record.body_bytes = len(body)
    with record.stage("parse"):
        if request.method == "POST":
            images = images_of_body(body, settings)
        else:
            images = images_of_query(request.query_params.multi_items(), settings)
        record.images = len(images)
        del body
    started = time.perf_counter()
    fragments = await unless_client_leaves(request, scorer.score(images, account, record))
    headers = {
        RUN_FAILED: "False",
        "x-ms-run-fn-exec-ms": f"{(time.perf_counter() - started) * 1000:.3f}",
    }
    answer = Response(b"[" + b",".join(fragments) + b"]", 200, headers, "application/json")
    return await compressed(answer, request.headers.get("accept-encoding", ""))


@router.options("/score")
async def score_options() -> Response:
    """Empty; what a page of another origin may do stands in the headers."""
    return Response(headers={RUN_FAILED: "False"}, media_type="application/json")


@router.get("/swagger.json")
async def swagger(settings: SettingsDep, version: str = "2") -> Response:
    return JSONResponse(api_description(version, settings), headers={RUN_FAILED: "False"})


@router.api_route("/", methods=["GET", "HEAD"])
async def health(dispatcher: DispatcherDep) -> Response:
    """Azure's probe: healthy from the first readiness on, restarts of workers included."""
    _require_none(dispatcher.health().unhealthy)
    return HTMLResponse("Healthy")


@router.options("/")
async def health_options() -> Response:
    return HTMLResponse(headers={"allow": "HEAD, OPTIONS, GET"})


@router.get("/livez")
async def alive(dispatcher: DispatcherDep) -> Response:
    """Whether the dispatcher still beats; 503 means that only a restart can help."""
    _require_none(dispatcher.health().dead)
    return PlainTextResponse("alive")


@router.get("/readyz")
async def ready(dispatcher: DispatcherDep) -> Response:
    """Whether new clients should come."""
    _require_none(dispatcher.health().unready)
    return PlainTextResponse("ready")


@router.get("/metrics")
async def metrics(request: Request, settings: SettingsDep) -> Response:
    """For Prometheus."""
    if not settings.metrics:
        raise HTTPException(404)
    return Response(request.app.state.metrics.exposition(), media_type=CONTENT_TYPE)


def _require_none(reason: str | None) -> None:
    if reason is not None:
        raise UnavailableError(reason)
