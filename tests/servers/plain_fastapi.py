"""The model behind a route of a few lines: python plain_fastapi.py PORT."""

import base64
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from starlette.concurrency import run_in_threadpool

from model.decode import decode_image
from model.predictor import Predictor
from service.settings import Settings
from service.worker.encode import encode_instances

settings = Settings()
predictor = Predictor.load(settings.weights_path)
app = FastAPI()


def score(row: str) -> bytes:
    [instances] = predictor.predict([decode_image(base64.b64decode(row))])
    return encode_instances(
        instances, predictor.class_names, tolerance_px=settings.polygon_tolerance_px
    )


@app.post("/score")
async def score_route(body: dict[str, Any]) -> Response:
    [row] = body["input_data"]["data"]
    fragment = await run_in_threadpool(score, row)
    return Response(b"[" + fragment + b"]", media_type="application/json")


@app.get("/")
async def health() -> str:
    return "Healthy"


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
