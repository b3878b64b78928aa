"""What a running server answers, in the form that it is judged in."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from model.detections import Detections
from model.evaluate import Detect, Picture
from service.client import Client, ScoreError
from service.predict import Answer, instances_of

#: Pictures asked for at once: enough for a server to fill its batches, with few to hold in memory.
PICTURES_AT_ONCE = 8


def detect_by(client: Client) -> Detect:
    """Ask the server, one request a picture and ``PICTURES_AT_ONCE`` of them at a time.

    The answer raises ScoreError where the server does not score a picture, and ValueError
    where there is no such file.
    """

    def detect_one(picture: Picture) -> Detections:
        try:
            [answer] = client.score([picture.path.read_bytes()])
        except OSError as error:
            raise ValueError(f"cannot read the image {picture.path} ({error.strerror})") from error
        except ScoreError as error:
            raise type(error)(f"{picture.path}: {error}") from error
        try:
            return answer_detections(answer, picture.height, picture.width)
        except (KeyError, TypeError, ValueError) as error:
            raise ScoreError(f"{picture.path}: no answer in Azure's form ({error!r})") from error

    def detect(pictures: Sequence[Picture]) -> list[Detections]:
        with ThreadPoolExecutor(PICTURES_AT_ONCE) as threads:
            return list(threads.map(detect_one, pictures))

    return detect


def answer_detections(answer: Answer, height: int, width: int) -> Detections:
    """An answer about an image of that size: its boxes as they are, its polygons filled.

    Polygons are filled as Azure's evaluation does it: a mask is the union of all its rings.
    """
    found = Detections.from_instances(*instances_of(answer, height, width))
    corners = [
        (box["topX"] * width, box["topY"] * height, box["bottomX"] * width, box["bottomY"] * height)
        for box in (one["box"] for one in answer["boxes"])
    ]
    return replace(found, boxes=np.array(corners, dtype=np.float64).reshape(-1, 4))
