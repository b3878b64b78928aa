"""Curves as a PNG, by means that a serving installation has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_PANEL = (480, 360)  # width, height in pixels
_MARGIN = 60
_INK, _GRID, _CURVE = (40, 40, 40), (220, 220, 220), (30, 100, 200)
_TICKS = 4


@dataclass(frozen=True, slots=True)
class Curve:
    """One panel: ``ys`` over ``xs``, from zero on; a point whose y is None is left out."""

    title: str
    x_label: str
    xs: Sequence[float]
    ys: Sequence[float | None]


def draw_curves(curves: Sequence[Curve], path: Path) -> None:
    """One panel beside the other."""
    width, height = _PANEL
    picture = Image.new("RGB", (width * len(curves), height), "white")
    for index, curve in enumerate(curves):
        panel = Image.new("RGB", _PANEL, "white")
        _draw_panel(ImageDraw.Draw(panel), curve)
        picture.paste(panel, (index * width, 0))
    picture.save(path, "PNG")


def _draw_panel(draw: ImageDraw.ImageDraw, curve: Curve) -> None:
    known = [(x, y) for x, y in zip(curve.xs, curve.ys, strict=True) if y is not None]
    top = (max((x for x, _ in known), default=0) or 1, max((y for _, y in known), default=0) or 1)
    _draw_axes(draw, curve, top)
    points = [_place(x / top[0], y / top[1]) for x, y in known]
    draw.line(points, fill=_CURVE, width=2)
    for x, y in points:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_CURVE)


def _draw_axes(draw: ImageDraw.ImageDraw, curve: Curve, top: tuple[float, float]) -> None:
    """Both run from 0 to ``top``."""
    font = ImageFont.load_default(13)
    for tick in range(_TICKS + 1):
        share = tick / _TICKS
        draw.line((_place(0, share), _place(1, share)), fill=_GRID)
        x, y = _place(0, share)
        draw.text((x - 6, y), f"{top[1] * share:.4g}", _INK, font, anchor="rm")
        x, y = _place(share, 0)
        draw.text((x, y + 6), f"{top[0] * share:.4g}", _INK, font, anchor="ma")
    draw.line((_place(0, 1), _place(0, 0), _place(1, 0)), fill=_INK)
    width, height = _PANEL
    draw.text((width / 2, 20), curve.title, _INK, font, anchor="mm")
    draw.text((width / 2, height - 20), curve.x_label, _INK, font, anchor="mm")


def _place(x: float, y: float) -> tuple[float, float]:
    """A point given as shares of the axes -> pixels of the panel."""
    width, height = _PANEL
    return (
        _MARGIN + x * (width - 2 * _MARGIN),
        height - _MARGIN - y * (height - 2 * _MARGIN),
    )
