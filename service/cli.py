"""The ``solov2`` command.

Imports of torch and of what only one command needs stand inside the commands: ``serve`` has to
answer its health route within a second, and a serving image carries no training dependencies.
"""

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from service.logs import configure_logging
from service.settings import Settings, SettingsError, cache_folder

if TYPE_CHECKING:
    from model.evaluate import ClassReport, CocoReport
    from service.batch.tally import Tally
    from service.benchmark import Benchmark, Load, Plan, Point, Report

app = typer.Typer(
    name="solov2",
    help="SOLOv2 instance segmentation: serve it, use it, judge it, train it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
benchmark_app = typer.Typer(help="Measure a model, or a running server.", no_args_is_help=True)
app.add_typer(benchmark_app, name="benchmark")
console = Console()

_BAR_EVERY_S = 0.2
_LINE_EVERY_S = 10.0

WeightsOption = Annotated[
    Path | None, typer.Option(help="Weights file or folder; the shipped model unless given.")
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
PrecisionOption = Annotated[Literal["auto", "fp32", "bf16", "fp16"] | None, typer.Option()]
ApplyExifOption = Annotated[
    bool | None,
    typer.Option("--apply-exif", help="Turn pictures as EXIF says; the annotations must agree."),
]


def _fail(reason: object) -> NoReturn:
    """End with one line on standard error and exit code 1."""
    sys.stderr.write(f"solov2: {reason}\n")
    raise typer.Exit(1)


def _say(text: object) -> None:
    """One line, whatever a path in it looks like and however narrow the terminal is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _settings(**given: object) -> Settings:
    try:
        return Settings.load(**given)
    except SettingsError as error:
        _fail(error)


@contextlib.contextmanager
def _train_extra() -> Iterator[None]:
    """Import in here what a serving installation does not have."""
    try:
        yield
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed; pip install 'solov2[train]' brings it")


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(help="Port to listen on; 5001 unless set.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; all unless set.")] = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
) -> None:
    """Answer POST /score until told to stop. SOLOV2_* variables set everything else."""
    from service.web.server import serve as run_server

    settings = _settings(port=port, host=host, weights=weights, devices=device, precision=precision)
    raise typer.Exit(run_server(settings))


@app.command()
def predict(
    photos: Annotated[list[Path], typer.Argument(help="Photos to score.")],
    out: Annotated[Path, typer.Option(help="Folder for the JSON and the pictures.")],
    url: Annotated[str | None, typer.Option(help="Ask this server instead of a model.")] = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    min_score: Annotated[float, typer.Option(help="Draw instances of at least this score.")] = 0.3,
) -> None:
    """Score photos; write what /score would answer, and pictures of it."""
    from model.checkpoint import CheckpointError
    from service.client import Client, ScoreError
    from service.predict import predict_photos
    from service.worker.stages import Stages, load_predictor

    settings = _settings(weights=weights, devices=device, precision=precision)
    failed = 0
    try:
        with contextlib.ExitStack() as open_connections:
            if url is None:
                stages = Stages(load_predictor(settings, settings.devices[0]), settings)
                score = lambda data: json.loads(stages.score(data))  # noqa: E731
            else:
                client = open_connections.enter_context(Client(url))
                score = lambda data: client.score([data])[0]  # noqa: E731
            for result in predict_photos(
                photos, out, score, min_score=min_score, apply_exif=settings.apply_exif
            ):
                failed += result.error is not None
                summary = _summary(result.answer, min_score, result.error)
                _say(f"{result.photo}: {summary}")
    except (CheckpointError, ScoreError, ValueError, OSError) as error:
        _fail(error)
    raise typer.Exit(1 if failed else 0)


@app.command()
def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Folder, glob, list of paths or URLs (- reads it), CSV, Parquet or tar.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to append to: one JSON object a line.")],
    column: Annotated[str, typer.Option(help="Of a table: where the images are.")] = "image",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew.")] = False,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    score_threshold: Annotated[
        float | None, typer.Option(help="Leave out instances below it; 0.05 unless set.")
    ] = None,
    apply_exif: Annotated[
        bool | None, typer.Option("--apply-exif", help="Turn photos as EXIF says.")
    ] = None,
) -> None:
    """Score any number of images. Stop it and start it again: it goes on where it was."""
    from service.batch.errors import BatchError

    settings = _settings(
        weights=weights,
        devices=device,
        precision=precision,
        score_threshold=score_threshold,
        apply_exif=apply_exif,
    )
    try:
        tally = _run_batch(source, out, column, overwrite, settings)
    except (BatchError, OSError) as error:
        _fail(error)
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    before = f", {tally.found} were there before" if tally.found else ""
    _say(f"{out}: {tally.new} images, {tally.errors} errors{before}")


def _run_batch(given: str, out: Path, column: str, overwrite: bool, settings: Settings) -> "Tally":
    from service.batch.errors import BatchError
    from service.batch.results import ResultFile
    from service.batch.scoring import run_batch
    from service.batch.sources import open_source
    from service.batch.tally import Tally

    if not settings.weights_path.exists():
        raise BatchError(f"{settings.weights_path}: no such weights file")
    source = open_source(given, column=column, max_image_bytes=settings.max_image_bytes)
    with ResultFile(out, overwrite=overwrite) as results:
        configure_logging(sys.stderr)  # says why a URL gave nothing, or a worker ended
        tally = Tally(results.found)
        with _shown(tally, source.count):
            asyncio.run(run_batch(source.items(), results, settings, tally.note))
    return tally


@contextlib.contextmanager
def _shown(tally: "Tally", count: Callable[[], int | None]) -> Iterator[None]:
    """A bar on a terminal, else a line now and then. Both come from a thread of their own."""
    ended = threading.Event()

    def show() -> None:
        with _progress(TextColumn("{task.fields[tally]}"), remaining=False) as progress:
            task = progress.add_task("scoring", total=None, tally=tally)
            while not ended.wait(_BAR_EVERY_S if console.is_terminal else _LINE_EVERY_S):
                progress.update(task, completed=tally.done, total=tally.total)
                if not console.is_terminal:
                    _say(tally)

    def find_total() -> None:
        with contextlib.suppress(Exception):  # whoever scores them will say what is wrong
            tally.total = count()

    threading.Thread(target=find_total, daemon=True).start()
    shower = threading.Thread(target=show)
    shower.start()
    try:
        yield
    finally:
        ended.set()
        shower.join()


def _summary(answer: dict[str, Any] | None, min_score: float, error: str | None) -> str:
    if answer is None:
        return f"error: {error}"
    seen = [box for box in answer["boxes"] if box["score"] >= min_score]
    return ", ".join(f"{box['label']} {box['score']:.2f}" for box in seen) or "nothing found"


@app.command()
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

    with _train_extra():
        from model.evaluate import evaluate_coco

    settings = _settings(
        weights=weights, devices=device, precision=precision, apply_exif=apply_exif
    )
    if out is not None and not out.parent.is_dir():
        _fail(f"{out}: its folder does not exist")
    try:
        predictor = Predictor.load(settings.weights_path, settings.devices[0], settings.precision)
        with _progress(MofNCompleteColumn()) as progress:
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
        _fail(error)
    console.print(_report_table(report))
    if out is not None:
        out.write_text(json.dumps(report.to_dict(), indent=2) + "\n")


@benchmark_app.command("model")
def benchmark_model(
    photo: Annotated[Path, typer.Argument(help="Photo to take from pixels to polygons.")],
    weights: WeightsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    repeats: Annotated[int, typer.Option(help="Runs to take the median of.", min=1)] = 20,
) -> None:
    """Milliseconds of each stage for one photo, and their sum."""
    from model.benchmark import benchmark_picture
    from model.decode import read_image
    from model.predictor import Predictor

    settings = _settings(weights=weights, devices=device, precision=precision)
    try:
        predictor = Predictor.load(settings.weights_path, settings.devices[0], settings.precision)
        image = read_image(photo, apply_exif=settings.apply_exif)
        times = benchmark_picture(
            predictor, image, repeats=repeats, tolerance_px=settings.polygon_tolerance_px
        )
    except (ValueError, OSError) as error:
        _fail(error)
    for stage, milliseconds in (*times.stages.items(), ("total", times.total)):
        console.print(f"{stage:12}{milliseconds:8.1f} ms")
    size = f"{image.shape[1]}x{image.shape[0]}"
    console.print(f"{size} pixels, {times.instances} instances, median of {repeats} runs")


@benchmark_app.command("http")
def benchmark_http(
    url: Annotated[str, typer.Argument(help="Of the server, with or without /score.")],
    concurrency: Annotated[
        str | None, typer.Option(help="Clients of each closed loop; 1,2,4,8 without --rate.")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Images/s of each open loop: 5,10.5.")] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of the pictures to send; drawn ones unless given.")
    ] = None,
    warm_up: Annotated[float, typer.Option(help="Seconds before each.", min=0)] = 2,
    duration: Annotated[float, typer.Option(help="Seconds that count of each.", min=0.1)] = 10,
    deadline_ms: Annotated[float, typer.Option(help="Later answers are no goodput.")] = 1000,
    timeout: Annotated[float, typer.Option(help="Seconds that one request may take.")] = 60,
    probe: Annotated[bool, typer.Option("--probe", help="Ask GET / meanwhile.")] = False,
    seed: Annotated[int, typer.Option(help="Of the open loops and the drawn pictures.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw them as a PNG.")] = None,
) -> None:
    """Throughput and latency of a running server, under one load after the other."""
    from service.benchmark import Benchmark, BenchmarkError, Plan
    from service.photos import draw_photos, read_photos

    for file in (out, plot):
        if file is not None and not file.parent.is_dir():
            _fail(f"{file}: its folder does not exist")
    loads = _loads(concurrency or ("" if rate else "1,2,4,8"), rate or "", seed)
    plan = Plan(
        warm_up_s=warm_up,
        duration_s=duration,
        deadline_ms=deadline_ms,
        timeout_s=timeout,
        probe=probe,
    )
    try:
        images = draw_photos(seed=seed) if photos is None else read_photos(photos)
        report = asyncio.run(_measure(Benchmark(url, images, plan), plan, loads))
    except (BenchmarkError, ValueError) as error:
        _fail(error)
    console.print(_load_table(report))
    if out is not None:
        out.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    if plot is not None:
        _plot(report, plot)


def _loads(concurrency: str, rate: str, seed: int) -> "list[Load]":
    from service.benchmark import ClosedLoop, OpenLoop

    try:
        clients = [int(part) for part in concurrency.split(",") if part]
        rates = [float(part) for part in rate.split(",") if part]
    except ValueError as error:
        _fail(f"--concurrency and --rate take numbers with commas between them: {error}")
    if not all(0 < number < float("inf") for number in (*clients, *rates)):
        _fail("--concurrency and --rate take numbers above 0")
    return [*map(ClosedLoop, clients), *(OpenLoop(number, seed) for number in rates)]


async def _measure(benchmark: "Benchmark", plan: "Plan", loads: "list[Load]") -> "Report":
    from service.benchmark import Report

    await benchmark.require_server()
    points = []
    with _progress(MofNCompleteColumn()) as progress:
        for load in progress.track(loads, description="measuring"):
            points.append(await benchmark.measure(load))
    return Report(benchmark.url, plan, tuple(points))


def _load_table(report: "Report") -> Table:
    """Narrow enough for a terminal of 80 columns; latencies in ms, that of GET / its p99."""
    title = f"{report.url}, {report.plan.duration_s:g} s each, latencies in ms"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("load", no_wrap=True)
    for heading in ("images/s", "in time", "p50", "p95", "p99", "batch", "GET /"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("errors")
    for point in report.points:
        load = f"{point.clients} clients" if point.clients else f"{point.rate:g}/s"
        table.add_row(load, *_load_figures(point), _errors(point))
    return table


def _load_figures(point: "Point") -> Iterator[str]:
    latency = point.latency
    percentiles = (latency.p50_ms, latency.p95_ms, latency.p99_ms) if latency else (None,) * 3
    health_p99 = point.health.latency.p99_ms if point.health and point.health.latency else None
    for figure in (
        *(point.throughput, point.goodput),
        *percentiles,
        *(point.mean_batch_size, health_p99),
    ):
        yield "-" if figure is None else f"{figure:.{figure < 100:d}f}"


def _errors(point: "Point") -> str:
    return ", ".join(f"{count} x {name}" for name, count in point.errors.items())


def _plot(report: "Report", path: Path) -> None:
    """Throughput and p99 over the clients, and over the offered rate, where there are any."""
    from service.plot import Curve, draw_curves

    closed = [point for point in report.points if point.clients is not None]
    opened = [point for point in report.points if point.rate is not None]
    curves = []
    for x_label, points in (("clients", closed), ("images/s offered", opened)):
        if points:
            loads = [point.load for point in points]
            slowest = [point.latency.p99_ms if point.latency else None for point in points]
            curves.append(Curve("images/s", x_label, loads, [p.throughput for p in points]))
            curves.append(Curve("p99, ms", x_label, loads, slowest))
    draw_curves(curves, path)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Published .pth of MMDetection or SOLO.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors to write.")],
    variant: Annotated[str | None, typer.Option(help="Found out unless given.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store float16: half the size.")] = False,
) -> None:
    """Keep an official checkpoint as a weights file of ours."""
    from model.checkpoint import CheckpointError
    from model.convert_mmdet import convert_file

    try:
        report = convert_file(source, out, variant=variant, half=half)
    except (CheckpointError, OSError) as error:
        _fail(error)
    _say(f"{out}: {report.variant}, {len(report.class_names)} classes, {report.entries} entries")


@app.command()
def download(
    variant: Annotated[str, typer.Argument(help="r50_1x, r50_3x, light_r18_3x ...")],
    base_url: Annotated[str | None, typer.Option(help="A mirror of the published files.")] = None,
) -> None:
    """Fetch, verify and convert the published weights of an official variant."""
    from model.checkpoint import CheckpointError
    from service.download import DownloadError, download_weights

    try:
        with _progress(DownloadColumn(), TransferSpeedColumn()) as progress:
            task = progress.add_task(variant, total=None)
            path = download_weights(
                variant,
                cache_folder(),
                base_url=base_url,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except (CheckpointError, DownloadError, OSError) as error:
        _fail(error)
    _say(path)


def _progress(*figures: ProgressColumn, remaining: bool = True) -> Progress:
    """A bar with those figures on the terminal; nothing where there is none."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *figures,
        *([TimeRemainingColumn()] if remaining else []),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


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


@app.command()
def train(
    images: Annotated[Path, typer.Option(help="Folder of the training pictures.")],
    annotations: Annotated[Path, typer.Option(help="COCO JSON with their instance masks.")],
    out: Annotated[Path, typer.Option(help="Folder for weights, log and state; resumes from it.")],
    val_images: Annotated[Path | None, typer.Option(help="Pictures to measure AP on.")] = None,
    val_annotations: Annotated[Path | None, typer.Option(help="COCO JSON of those.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Start from this file of ours.")] = None,
    backbone: Annotated[
        Path | None, typer.Option(help="Start the backbone from this .pth.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Architecture, without --weights.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step, all GPUs.")] = None,
    optimiser: Annotated[Literal["sgd", "adamw"] | None, typer.Option()] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    backbone_lr_factor: Annotated[
        float | None, typer.Option(help="Of that, in the backbone.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option()] = None,
    warmup_iterations: Annotated[int | None, typer.Option(help="Steps of rising rate.")] = None,
    schedule: Annotated[Literal["step", "cosine"] | None, typer.Option()] = None,
    clip_grad_norm: Annotated[float | None, typer.Option(help="Largest gradient norm.")] = None,
    freeze_stages: Annotated[int | None, typer.Option(help="Backbone stages left alone.")] = None,
    short_side: Annotated[
        list[int] | None, typer.Option(help="Short side in pixels; repeat it for multi-scale.")
    ] = None,
    long_side: Annotated[int | None, typer.Option(help="Longest long side in pixels.")] = None,
    apply_exif: ApplyExifOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    workers: Annotated[int | None, typer.Option(help="Loader processes per GPU.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Train on COCO-format data. Stop it and start it again: it goes on where it was."""
    with _train_extra():
        from model.training.config import TrainConfig
        from model.training.train import train as run_training

    given: dict[str, Any] = {
        "train_images": images,
        "train_annotations": annotations,
        "output": out,
        "val_images": val_images,
        "val_annotations": val_annotations,
        "weights": weights,
        "backbone_weights": backbone,
        "variant": variant,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimiser": optimiser,
        "learning_rate": learning_rate,
        "backbone_lr_factor": backbone_lr_factor,
        "weight_decay": weight_decay,
        "warmup_iterations": warmup_iterations,
        "schedule": schedule,
        "clip_grad_norm": clip_grad_norm,
        "freeze_stages": freeze_stages,
        "short_sides": tuple(short_side) if short_side else None,
        "long_side": long_side,
        "apply_exif": apply_exif,
        "precision": precision,
        "device": device,
        "workers": workers,
        "seed": seed,
    }
    try:
        result = run_training(TrainConfig(**{k: v for k, v in given.items() if v is not None}))
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        _fail(error)
    best = f", best mask AP {result.best_mask_ap:.3f} in {result.best}" if result.best else ""
    _say(f"{result.iterations} iterations, last weights in {result.last}{best}")


if __name__ == "__main__":
    app()
