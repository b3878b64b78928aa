"""How a failure looks to the client, whichever part of the HTTP process tells it."""

import orjson
from starlette.responses import Response

from service.errors import ServiceError

RUN_FAILED = "x-ms-run-function-failed"


def error_answer(error: ServiceError) -> Response:
    """Azure's shape of an error: one message, and whether scoring itself failed."""
    headers = {RUN_FAILED: str(error.run_failed)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    return Response(message_body(str(error)), error.status, headers, "application/json")


def message_body(text: str) -> bytes:
    return orjson.dumps({"message": text})
