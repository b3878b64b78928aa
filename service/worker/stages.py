"""The three stages of an image around one loaded model: decode, infer, encode."""

from collections.abc import Sequence
from typing import Protocol

from model.config import InferenceConfig, SOLOv2Config
from model.decode import decode_image
from model.predictor import Predictor
from model.structures import ImageBatch, Instances, RGBImage
from service.errors import BadImageError
from service.settings import Settings
from service.worker.encode import encode_instances

#: Landscape, portrait and square photos: (height, width).
WARM_UP_SIZES = ((480, 640), (640, 480), (640, 640))


class InstancePredictor(Protocol):
    """What the stages need of ``model.Predictor``."""

    @property
    def config(self) -> SOLOv2Config: ...
    def prepare(self, images: Sequence[RGBImage], /) -> ImageBatch: ...
    def predict_batch(self, batch: ImageBatch, /) -> list[Instances]: ...


class Stages:
    """Plain functions of their inputs; only ``infer`` uses the device."""

    def __init__(self, predictor: InstancePredictor, settings: Settings) -> None:
        self.predictor = predictor
        self._settings = settings

    def decode(self, data: bytes) -> ImageBatch:
        """An encoded image -> the network's input for it alone.

        Raises:
            BadImageError: It cannot be decoded, or is too long and thin to be resized.
        """
        settings = self._settings
        try:
            image = decode_image(
                data, apply_exif=settings.apply_exif, max_pixels=settings.max_image_pixels
            )
            return self.predictor.prepare([image])
        except ValueError as error:  # an ImageError is one too
            raise BadImageError(str(error)) from error

    def infer(self, batch: ImageBatch) -> list[Instances]:
        return self.predictor.predict_batch(batch)

    def encode(self, instances: Instances) -> bytes:
        """The JSON fragment of one image."""
        return encode_instances(
            instances,
            self.predictor.config.class_names,
            tolerance_px=self._settings.polygon_tolerance_px,
        )

    def score(self, data: bytes) -> bytes:
        """All three for one image.

        Raises:
            BadImageError: See ``decode``.
        """
        [instances] = self.infer(self.decode(data))
        return self.encode(instances)


def load_predictor(settings: Settings, device: str) -> Predictor:
    """The model that the settings name.

    Raises:
        CheckpointError: The weights cannot be used.
        ValueError: This machine has no such device.
    """
    return Predictor.load(
        settings.weights_path,
        device,
        settings.precision,
        inference=InferenceConfig(score_threshold=settings.score_threshold),
    )
