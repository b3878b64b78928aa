"""Instances over their picture, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from model.structures import BoolMask, Instances, RGBImage

Colour = tuple[int, int, int]
Plate = tuple[int, int, int, int]  # half-open xyxy

# Okabe and Ito's colours, told apart by colour-blind readers too; without their black.
_PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
_MASK_OPACITY = 0.45


def draw_instances(
    image: RGBImage,
    instances: Instances,
    class_names: Sequence[str],
    *,
    min_score: float = 0.0,
) -> RGBImage:
    """Tint, outline, box and name each instance on a copy of the image.

    An instance keeps its colour whatever ``min_score`` is. Small instances are drawn over
    large ones, names over everything; an instance without a pixel is not drawn.

    Args:
        image: (H, W, 3) RGB.
        instances: Found in that image.
        class_names: C names; labels index into them.
        min_score: Instances below it are left out.
    """
    if image.shape[:2] != (instances.height, instances.width):
        raise ValueError(
            f"the image is {image.shape[1]}x{image.shape[0]} pixels, "
            f"its instances are from one of {instances.width}x{instances.height}"
        )
    areas = [int(mask.sum()) for mask in instances.masks]
    shown = [n for n, area in enumerate(areas) if area and instances.scores[n] >= min_score]
    shown.sort(key=lambda n: -areas[n])

    canvas = image.copy()
    thickness = max(1, round(_diagonal(image) / 700))
    for n in shown:
        _draw_shape(canvas, instances.boxes[n], instances.masks[n], _colour(n), thickness)
    labels = [
        _Label(
            f"{class_names[instances.labels[n]]} {instances.scores[n]:.2f}",
            tuple(instances.boxes[n].tolist()),
            _colour(n),
        )
        for n in sorted(shown)
    ]
    return _draw_labels(canvas, labels)


@dataclass(frozen=True, slots=True)
class _Label:
    text: str
    box: tuple[int, ...]
    colour: Colour


def _diagonal(image: RGBImage) -> float:
    return float(np.hypot(*image.shape[:2]))


def _colour(n: int) -> Colour:
    return _PALETTE[n % len(_PALETTE)]


def _draw_shape(
    canvas: RGBImage,
    box: npt.NDArray[np.int64],
    mask: BoolMask,
    colour: Colour,
    thickness: int,
) -> None:
    x1, y1, x2, y2 = box.tolist()
    region = canvas[y1:y2, x1:x2]
    tinted = region[mask] * (1 - _MASK_OPACITY) + np.array(colour) * _MASK_OPACITY
    region[mask] = tinted.round().astype(np.uint8)

    outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, colour, thickness, cv2.LINE_AA, offset=(x1, y1))
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), colour, thickness)


def _draw_labels(canvas: RGBImage, labels: Sequence[_Label]) -> RGBImage:
    """Write each text on a plate of its colour; the first label gets the best place."""
    height, width = canvas.shape[:2]
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    size = max(11, round(_diagonal(canvas) / 55))
    font = ImageFont.load_default(size)
    margin = max(2, size // 5)

    plates: list[Plate] = []
    for label in labels:
        extent = (round(pen.textlength(label.text, font)) + 2 * margin, size + 2 * margin)
        plates.append(_place(label.box, extent, (width, height), plates))
    for label, (x1, y1, x2, y2) in reversed(list(zip(labels, plates, strict=True))):
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=label.colour)
        brightness = np.dot(label.colour, (0.299, 0.587, 0.114))
        pen.text(
            (x1 + margin, (y1 + y2) / 2),
            label.text,
            fill="black" if brightness > 110 else "white",
            font=font,
            anchor="lm",
        )
    return np.array(picture)


def _place(
    box: tuple[int, ...],
    extent: tuple[int, int],
    frame: tuple[int, int],
    taken: Sequence[Plate],
) -> Plate:
    """Above the box, else inside its top, else below it: the first that covers no other label.

    ``extent`` and ``frame`` are (width, height). In a crowd labels do cover each other.
    """
    x1 = max(0, min(box[0], frame[0] - extent[0]))
    tops = [box[1] - extent[1], box[1], box[3]]
    inside = [top for top in tops if 0 <= top <= frame[1] - extent[1]] or [0]
    plates = [(x1, top, x1 + extent[0], top + extent[1]) for top in inside]
    return next(
        (plate for plate in plates if not any(_overlap(plate, other) for other in taken)),
        plates[0],
    )


def _overlap(a: Plate, b: Plate) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
