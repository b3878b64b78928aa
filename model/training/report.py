"""A finished run as one HTML file that needs nothing beside it."""

import base64
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader

from model.annotations.annotated import AnnotatedImage
from model.annotations.masks import decode_masks
from model.decode import read_image
from model.draw import draw_instances
from model.predictor import Predictor
from model.structures import Instances, RGBImage
from model.training.config import TrainConfig
from model.training.data import Data

if TYPE_CHECKING:
    from model.training.train import TrainResult

_EXAMPLES = 12
_EXAMPLE_SCORE = 0.3
_EXAMPLE_SIDE = 480  # pixels, of the longer side
_PLOT = (360, 200)  # width and height of a chart in its own units

# Heading -> its lines, each a field of the log. Losses and rates are in the log's own lines.
_CHARTS = {
    "Losses": ("loss_mask", "loss_category"),
    "Average precision": ("mask_ap", "mask_ap50"),
    "Learning rate": ("learning_rate",),
}
_COLOURS = ("#0072b2", "#d55e00")


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    colour: str
    points: list[str]  # of an SVG polyline
    last: float


@dataclass(frozen=True, slots=True)
class _Chart:
    heading: str
    top: float  # value at the upper edge; the lower one is 0
    end: int  # iteration at the right edge
    lines: tuple[_Line, ...]


@dataclass(frozen=True, slots=True)
class _Example:
    name: str
    truth: str  # data URIs
    found: str


def write_report(config: TrainConfig, data: Data, result: "TrainResult", device: str) -> Path:
    """Write ``report.html``: AP per class, curves, and pictures with what was found in them.

    Args:
        config: Of the run.
        data: Its pictures; examples are held-out ones where there are any.
        result: What it left behind; the log is read from its folder.
        device: To find things in the examples on.
    """
    log = [json.loads(line) for line in (config.output / "log.jsonl").read_text().splitlines()]
    measured = [line for line in log if "mask_ap" in line]
    weights = result.last if result.best is None else result.best
    predictor = Predictor.load(weights, device, config.precision)
    held_out = data.train if data.validation is None else data.validation
    environment = Environment(loader=PackageLoader("model.training", ""), autoescape=True)
    environment.filters["figure"] = _written
    page = environment.get_template("report.html.jinja").render(
        name=config.output.name,
        weights=weights.name,
        result=result,
        pictures=len(data.train.images),
        held_out=0 if data.validation is None else len(data.validation.images),
        best=max(measured, key=lambda line: line["mask_ap"], default=None),
        charts=list(_charts(log)),
        plot=_PLOT,
        examples=list(_examples(held_out.images, predictor, data.class_names, config)),
        example_score=_EXAMPLE_SCORE,
        settings=_settings(config),
    )
    result.report.write_text(page, encoding="utf-8")
    return result.report


def _written(value: float) -> str:
    """A figure with three decimals; a dash for -1, which says that nothing was measured."""
    return f"{value:.3f}" if value >= 0 else "-"


def _settings(config: TrainConfig) -> dict[str, Any]:
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: value for name, value in fields.items() if value is not None}


def _charts(log: Sequence[dict[str, Any]]) -> Iterator[_Chart]:
    for heading, names in _CHARTS.items():
        series = {
            name: [(line["iteration"], line[name]) for line in log if name in line]
            for name in names
        }
        series = {name: points for name, points in series.items() if points}
        if not series:
            continue
        top = max(value for points in series.values() for _, value in points) or 1.0
        end = max(iteration for points in series.values() for iteration, _ in points)
        yield _Chart(
            heading,
            top,
            end,
            tuple(
                _Line(name, colour, _polyline(points, top, end), points[-1][1])
                for colour, (name, points) in zip(_COLOURS, series.items(), strict=False)
            ),
        )


def _polyline(points: Iterable[tuple[int, float]], top: float, end: int) -> list[str]:
    """From (0, 0) at the lower left to (end, top) at the upper right; y points down."""
    width, height = _PLOT
    return [
        f"{iteration / end * width:.1f},{(1 - max(value, 0) / top) * height:.1f}"
        for iteration, value in points
    ]


def _examples(
    images: Sequence[AnnotatedImage],
    predictor: Predictor,
    class_names: Sequence[str],
    config: TrainConfig,
) -> Iterator[_Example]:
    """Pictures from all over the data set, as annotated and as found."""
    count = min(_EXAMPLES, len(images))
    for n in range(count):
        image = images[n * len(images) // count]
        pixels = read_image(image.path, apply_exif=config.apply_exif)
        [found] = predictor.predict([pixels])
        truth = _annotated(image, class_names)
        yield _Example(
            image.path.name,
            _data_uri(draw_instances(pixels, truth, class_names)),
            _data_uri(draw_instances(pixels, found, class_names, min_score=_EXAMPLE_SCORE)),
        )


def _annotated(image: AnnotatedImage, class_names: Sequence[str]) -> Instances:
    objects = [o for o in image.objects if not o.crowd and o.label in class_names]
    masks = decode_masks([o.segmentation for o in objects], image.height, image.width)
    labels = np.array([class_names.index(o.label) for o in objects], dtype=np.int64)
    return Instances.from_full_masks(np.ones(len(objects), dtype=np.float32), labels, masks.numpy())


def _data_uri(picture: RGBImage) -> str:
    scale = min(1.0, _EXAMPLE_SIDE / max(picture.shape[:2]))
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
