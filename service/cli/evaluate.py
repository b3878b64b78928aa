"""Judging a model, or the server that runs one."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import MofNCompleteColumn
from rich.table import Table

from service.cli.options import (
    ApplyExifOption,
    DeviceOption,
    PrecisionOption,
    WeightsOption,
    connect,
    load_settings,
)
from service.cli.terminal import console, fail, progress_bar, train_extra

if TYPE_CHECKING:
    from model.evaluate import ClassReport, CocoReport, Progress
    from model.voc import VocReport


def evaluate(
    images: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    annotations: Annotated[Path, typer.Option(help="COCO JSON with their instance masks.")],
    url: Annotated[str | None, typer.Option(help="Judge this server instead of a model.")] = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First N pictures only.")] = None,
    apply_exif: ApplyExifOption = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compute step by step as MMDetection does.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write them as a page.")] = None,
) -> None:
    """COCO's and Azure's figures of a model or a server, overall and per class."""
    from model.checkpoint import CheckpointError
    from service.client import ScoreError

    with train_extra():
        from service.report import report_page

    for file in (out, html):
        if file is not None and not file.parent.is_dir():
            fail(f"{file}: its folder does not exist")
    of_a_model: dict[str, object] = {
        "weights": weights,
        "devices": device,
        "precision": precision,
        "apply_exif": apply_exif,
    }
    try:
        with _counting() as progress:
            if url is None:
                judged, report = _judge_model(
                    of_a_model, images, annotations, limit, progress, exact=exact
                )
            elif not exact and all(value is None for value in of_a_model.values()):
                judged, report = url, _judge_server(url, images, annotations, limit, progress)
            else:
                fail("--url leaves weights, device, precision, EXIF and exactness to the server")
    except (CheckpointError, ScoreError, ValueError, OSError) as error:
        fail(error)
    console.print(_coco_table(report))
    console.print(_voc_table(report.voc))
    if out is not None:
        out.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    if html is not None:
        page = report_page(report, judged=judged, annotations=annotations)
        html.write_text(page, encoding="utf-8")


def _judge_model(
    given: dict[str, object],
    images: Path,
    annotations: Path,
    limit: int | None,
    progress: "Progress",
    *,
    exact: bool,
) -> tuple[str, "CocoReport"]:
    from model.evaluate import evaluate_coco
    from model.predictor import Predictor

    settings = load_settings(**given)
    predictor = Predictor.load(
        settings.weights_path, settings.devices[0], settings.precision, exact=exact
    )
    report = evaluate_coco(
        predictor.predict,
        predictor.class_names,
        images,
        annotations,
        limit=limit,
        apply_exif=settings.apply_exif,
        progress=progress,
    )
    return settings.weights_path.name, report


def _judge_server(
    url: str, images: Path, annotations: Path, limit: int | None, progress: "Progress"
) -> "CocoReport":
    from model.evaluate import evaluate_detections
    from service.evaluate import PICTURES_AT_ONCE, detect_by

    with connect(url) as client:
        return evaluate_detections(
            detect_by(client),
            images,
            annotations,
            batch_size=PICTURES_AT_ONCE,
            limit=limit,
            progress=progress,
        )


@contextlib.contextmanager
def _counting() -> Iterator["Progress"]:
    with progress_bar(MofNCompleteColumn()) as bar:
        task = bar.add_task("evaluating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _coco_table(report: "CocoReport") -> Table:
    columns = {
        "AP": "ap",
        "AP50": "ap50",
        "AP75": "ap75",
        "small": "ap_small",
        "medium": "ap_medium",
        "large": "ap_large",
        "AR": "ar100",
    }
    rows: list[tuple[str, CocoReport | ClassReport]] = [("all", report)]
    rows += report.per_class.items()
    table = _table(f"COCO: {report.images} images, {report.seconds:.0f} s", columns)
    for name, row in rows:
        for kind, figures in (("mask", row.mask), ("box", row.box)):
            _add_row(table, f"{name} {kind}", [getattr(figures, c) for c in columns.values()])
    return table


def _voc_table(voc: "VocReport") -> Table:
    columns = ("average precision", "precision", "recall")
    title = f"Azure: masks of score {voc.score_threshold} and above, IoU {voc.iou_threshold}"
    table = _table(title, columns)
    _add_row(table, "mean", [voc.mean_average_precision, voc.precision, voc.recall])
    for label, figures in voc.per_label_metrics.items():
        values = [figures.average_precision, figures.precision, figures.recall]
        _add_row(table, label, values)
    return table


def _table(title: str, headings: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _add_row(table: Table, name: str, values: Iterable[float]) -> None:
    table.add_row(escape(name), *(f"{value:.3f}" if value >= 0 else "-" for value in values))
