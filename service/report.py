"""An evaluation as one HTML file that needs nothing beside it. Needs the ``train`` extra."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader

from model.evaluate import CocoReport

# Heading -> field of ``AveragePrecision``, in the order of COCO's own summary.
_COCO_COLUMNS = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "AP small": "ap_small",
    "AP medium": "ap_medium",
    "AP large": "ap_large",
    "AR 1": "ar1",
    "AR 10": "ar10",
    "AR 100": "ar100",
    "AR small": "ar_small",
    "AR medium": "ar_medium",
    "AR large": "ar_large",
}

# Okabe and Ito's colours, told apart by colour-blind readers too; yellow shows on no white page.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_PLOT = (600, 360)  # width, height of the chart's area in its own units


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    colour: str | None  # None where there are too many to tell apart
    points: str  # of an SVG polyline


def report_page(report: CocoReport, *, judged: str, annotations: Path) -> str:
    """The page's HTML.

    Args:
        report: What is shown.
        judged: The weights file or the address, for the heading.
        annotations: The file that the truth is from, for the heading.
    """
    environment = Environment(loader=PackageLoader("service", ""), autoescape=True)
    environment.filters["figure"] = _written
    rows = [("all classes", report.mask, report.box)]
    rows += [(name, one.mask, one.box) for name, one in report.per_class.items()]
    return environment.get_template("report.html.jinja").render(
        report=report,
        judged=judged,
        annotations=annotations.name,
        rows=rows,
        coco_columns=_COCO_COLUMNS,
        lines=_lines({name: one.curve for name, one in report.per_class.items()}),
        plot=_PLOT,
    )


def _written(value: float) -> str:
    """A figure with three decimals; a dash for -1, which says that nothing was measured."""
    return f"{value:.3f}" if value >= 0 else "-"


def _lines(curves: dict[str, tuple[float, ...]]) -> list[_Line]:
    """One for each class that was measured."""
    measured = {name: curve for name, curve in curves.items() if min(curve) >= 0}
    colours = (
        _COLOURS[: len(measured)] if len(measured) <= len(_COLOURS) else [None] * len(measured)
    )
    return [
        _Line(name, colour, _polyline(curve))
        for (name, curve), colour in zip(measured.items(), colours, strict=True)
    ]


def _polyline(precisions: Sequence[float]) -> str:
    """Precision over evenly spaced recalls from 0 to 1, y pointing down."""
    width, height = _PLOT
    step = width / (len(precisions) - 1)
    return " ".join(f"{n * step:.1f},{(1 - p) * height:.1f}" for n, p in enumerate(precisions))
