"""Judging a model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn
from rich.table import Table

from service.cli.options import (
    ApplyExifOption,
    DeviceOption,
    PrecisionOption,
    WeightsOption,
    load_settings,
)
from service.cli.terminal import console, fail, progress_bar, train_extra

if TYPE_CHECKING:
    from model.evaluate import ClassReport, CocoReport


def evaluate(
    images: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    annotations: Annotated[Path, typer.Option(help="COCO JSON with their instance masks.")],
    weights: WeightsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First N pictures only.")] = None,
    apply_exif: ApplyExifOption = None,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """COCO mask AP and box AP of a model, overall and per class."""
    from model.checkpoint import CheckpointError
    from model.predictor import Predictor

    with train_extra():
        from model.evaluate import evaluate_coco

    settings = load_settings(
        weights=weights, devices=device, precision=precision, apply_exif=apply_exif
    )
    if out is not None and not out.parent.is_dir():
        fail(f"{out}: its folder does not exist")
    try:
        predictor = Predictor.load(settings.weights_path, settings.devices[0], settings.precision)
        with progress_bar(MofNCompleteColumn()) as progress:
            task = progress.add_task("evaluating", total=None)
            report = evaluate_coco(
                predictor.predict,
                predictor.class_names,
                images,
                annotations,
                limit=limit,
                apply_exif=settings.apply_exif,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except (CheckpointError, ValueError, OSError) as error:
        fail(error)
    console.print(_report_table(report))
    if out is not None:
        out.write_text(json.dumps(report.to_dict(), indent=2) + "\n")


def _report_table(report: "CocoReport") -> Table:
    table = Table(title=f"{report.images} images, {report.seconds:.0f} s", title_justify="left")
    table.add_column("", no_wrap=True)
    columns = {
        "AP": "ap",
        "AP50": "ap50",
        "AP75": "ap75",
        "small": "ap_small",
        "medium": "ap_medium",
        "large": "ap_large",
        "AR": "ar100",
    }
    for heading in columns:
        table.add_column(heading, justify="right")
    rows: list[tuple[str, CocoReport | ClassReport]] = [("all", report)]
    rows += report.per_class.items()
    for name, row in rows:
        for kind, figures in (("mask", row.mask), ("box", row.box)):
            values = (getattr(figures, column) for column in columns.values())
            table.add_row(f"{name} {kind}", *(f"{v:.3f}" if v >= 0 else "-" for v in values))
    return table
