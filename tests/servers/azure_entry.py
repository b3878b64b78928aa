"""Entry script of the model for Azure's inference server: azmlinfsrv --entry_script THIS."""

import base64
import json
import os

from azureml_inference_server_http.api.aml_response import AMLResponse

from model.decode import decode_image
from model.predictor import Predictor
from service.settings import Settings
from service.worker.encode import encode_instances


def init() -> None:
    global predictor, settings
    # Azure's server sets the folder of its own model, which here is that of the entry script.
    os.environ.pop("AZUREML_MODEL_DIR", None)
    settings = Settings()
    predictor = Predictor.load(settings.weights_path)


def run(body: str) -> AMLResponse:
    [row] = json.loads(body)["input_data"]["data"]
    [instances] = predictor.predict([decode_image(base64.b64decode(row))])
    fragment = encode_instances(
        instances, predictor.class_names, tolerance_px=settings.polygon_tolerance_px
    )
    headers = {"Content-Type": "application/json"}
    return AMLResponse(b"[" + fragment + b"]", 200, headers)
