"""Photos on disk -> JSON files and pictures with the result drawn in."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson

from model.decode import ImageError, decode_image
from model.draw import draw_instances
from model.polygons import rings_to_mask
from model.structures import Instances, MaskCrops, RGBImage
from service.client import RefusedError
from service.errors import BadImageError
from service.panoptic import PanopticFolder

Answer = dict[str, Any]  # {"boxes": [...]}, what /score says of one image


@dataclass(frozen=True, slots=True)
class PhotoResult:
    """What became of one photo; ``error`` is set when it could not be scored."""

    photo: Path
    answer: Answer | None = None
    picture: Path | None = None
    error: str | None = None


def predict_photos(
    photos: Sequence[Path],
    out: Path,
    score: Callable[[bytes], Answer],
    *,
    min_score: float,
    apply_exif: bool,
    panoptic: PanopticFolder | None = None,
) -> Iterator[PhotoResult]:
    """Score photos one by one and write ``NAME.json`` and ``NAME.overlay.jpg`` for each.

    What is drawn is read back from the JSON, so the picture shows what a client gets; so is the
    panoptic map.

    Args:
        photos: Files; one that cannot be scored does not stop the others.
        out: Folder to write to, made if missing.
        score: Encoded bytes -> answer; may raise BadImageError.
        min_score: Draw only instances of at least this score; the JSON keeps all.
        apply_exif: Draw on the picture as its EXIF orientation says, if ``score`` does so too.
        panoptic: Also gets the map of each photo, of the instances that are drawn.

    Raises:
        ValueError: Two photos would be written to the same file.
    """
    stems = [photo.stem for photo in photos]
    for stem in stems:
        if stems.count(stem) > 1:
            raise ValueError(f"two photos are named {stem}; predict them into different folders")
    out.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        try:
            data = photo.read_bytes()
            answer = score(data)
            picture = out / f"{photo.stem}.overlay.jpg"
            image = decode_image(data, apply_exif=apply_exif)
            drawn = draw_answer(image, answer, min_score)
        except (ImageError, BadImageError, RefusedError) as error:
            yield PhotoResult(photo, error=str(error))
            continue
        except OSError as error:
            yield PhotoResult(photo, error=error.strerror or str(error))
            continue
        (out / f"{photo.stem}.json").write_bytes(orjson.dumps(answer, option=orjson.OPT_INDENT_2))
        write_jpeg(picture, drawn)
        if panoptic is not None:
            panoptic.add(photo, *instances_of(answer, *image.shape[:2]), min_score=min_score)
        yield PhotoResult(photo, answer, picture)


def draw_answer(image: RGBImage, answer: Answer, min_score: float) -> RGBImage:
    """The picture with an answer's masks, boxes and labels on it."""
    height, width = image.shape[:2]
    shown = {"boxes": [box for box in answer["boxes"] if box["score"] >= min_score]}
    instances, names = instances_of(shown, height, width)
    return draw_instances(image, instances, names, min_score=min_score)


def instances_of(answer: Answer, height: int, width: int) -> tuple[Instances, list[str]]:
    """An answer as instances of an image of that size, and the names their labels index."""
    boxes = answer["boxes"]
    names = sorted({box["label"] for box in boxes})
    crops = [_crop(box["polygon"], height, width) for box in boxes]
    return (
        Instances(
            scores=np.array([box["score"] for box in boxes], dtype=np.float32),
            labels=np.array([names.index(box["label"]) for box in boxes], dtype=np.int64),
            boxes=np.array([edges for edges, _ in crops], dtype=np.int64).reshape(-1, 4),
            masks=MaskCrops.pack(mask for _, mask in crops),
            height=height,
            width=width,
        ),
        names,
    )


def _crop(
    polygon: Sequence[Sequence[float]], height: int, width: int
) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """Half-open xyxy and the mask within, all of it inside the image; nothing for no polygon."""
    frame = (width, height)
    rings = [np.reshape(ring, (-1, 2)) * frame for ring in polygon]
    points = np.concatenate([*rings, np.empty((0, 2))])
    if len(points) == 0:
        return (0, 0, 0, 0), np.zeros((0, 0), dtype=np.bool_)
    x1, y1 = np.floor(points.min(axis=0) + 1e-3).clip(0, frame).astype(int).tolist()
    x2, y2 = np.ceil(points.max(axis=0) - 1e-3).clip(0, frame).astype(int).tolist()
    return (x1, y1, x2, y2), rings_to_mask([r - (x1, y1) for r in rings], y2 - y1, x2 - x1)


def write_jpeg(path: Path, image: RGBImage) -> None:
    """Write (H, W, 3) uint8 RGB."""
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]))
    path.write_bytes(encoded.tobytes())
