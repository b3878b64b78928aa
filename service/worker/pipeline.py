"""One encoded image after the other: decode, predict, encode."""

import logging
from collections.abc import Sequence
from typing import BinaryIO, Protocol

from model.config import InferenceConfig, SOLOv2Config
from model.decode import decode_image
from model.predictor import Predictor
from model.preprocess import fit_size
from model.structures import Instances, RGBImage
from service.errors import BadImageError
from service.protocol import Frame, Kind, receive_frame, send_frame
from service.settings import Settings
from service.worker.encode import encode_instances

logger = logging.getLogger(__name__)

#: Landscape, portrait and square photos: (height, width).
WARM_UP_SIZES = ((480, 640), (640, 480), (640, 640))


class InstancePredictor(Protocol):
    """What the pipeline needs of ``model.Predictor``."""

    @property
    def config(self) -> SOLOv2Config: ...
    def predict(self, images: Sequence[RGBImage], /) -> list[Instances]: ...


class Pipeline:
    """Everything between an encoded image and its JSON, around one loaded model."""

    def __init__(self, predictor: InstancePredictor, settings: Settings) -> None:
        self._predictor = predictor
        self._settings = settings

    def score(self, data: bytes) -> bytes:
        """The JSON fragment of one encoded image.

        Raises:
            BadImageError: It cannot be decoded, or is too long and thin to be resized.
        """
        config = self._predictor.config
        (instances,) = self._predictor.predict([self._decode(data)])
        return encode_instances(
            instances, config.class_names, tolerance_px=self._settings.polygon_tolerance_px
        )

    def _decode(self, data: bytes) -> RGBImage:
        settings = self._settings
        try:
            image = decode_image(
                data, apply_exif=settings.apply_exif, max_pixels=settings.max_image_pixels
            )
            fit_size(image.shape[0], image.shape[1], self._predictor.config.preprocess)
        except ValueError as error:  # an ImageError is one too
            raise BadImageError(str(error)) from error
        return image


def load_pipeline(settings: Settings) -> Pipeline:
    """A pipeline whose first image is as quick as the next.

    Raises:
        CheckpointError: The weights cannot be used.
    """
    predictor = Predictor.load(
        settings.weights_path,
        settings.devices,
        settings.precision,
        inference=InferenceConfig(score_threshold=settings.score_threshold),
    )
    predictor.warm_up(WARM_UP_SIZES)
    return Pipeline(predictor, settings)


def answer_frames(pipeline: Pipeline, questions: BinaryIO, answers: BinaryIO) -> None:
    """Score what arrives until the parent closes its end."""
    while (frame := receive_frame(questions)) is not None:
        send_frame(answers, _answer(pipeline, frame.payload))


def _answer(pipeline: Pipeline, data: bytes) -> Frame:
    try:
        return Frame(Kind.RESULT, pipeline.score(data))
    except BadImageError as error:
        return Frame(Kind.BAD_IMAGE, str(error).encode())
    except Exception:
        logger.exception("an image of %d bytes could not be scored", len(data))
        return Frame(Kind.FAILED)
