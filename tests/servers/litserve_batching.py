"""The model behind LitServe, which collects batches: python litserve_batching.py PORT."""

import base64
import sys
from typing import Any

import litserve
from fastapi import Response

from model.decode import decode_image
from model.predictor import Predictor
from model.structures import Instances, RGBImage
from service.settings import Settings
from service.worker.encode import encode_instances


class ScoreAPI(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.settings = Settings()
        self.predictor = Predictor.load(self.settings.weights_path)

    def decode_request(self, request: dict[str, Any]) -> RGBImage:
        [row] = request["input_data"]["data"]
        return decode_image(base64.b64decode(row))

    def batch(self, inputs: list[RGBImage]) -> list[RGBImage]:
        return inputs

    def predict(self, images: list[RGBImage]) -> list[Instances]:
        return self.predictor.predict(images)

    def unbatch(self, output: list[Instances]) -> list[Instances]:
        return output

    def encode_response(self, output: Instances) -> Response:
        fragment = encode_instances(
            output,
            self.predictor.class_names,
            tolerance_px=self.settings.polygon_tolerance_px,
        )
        return Response(b"[" + fragment + b"]", media_type="application/json")


if __name__ == "__main__":
    api = ScoreAPI(max_batch_size=8, batch_timeout=0.01, api_path="/score")
    server = litserve.LitServer(api, timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
