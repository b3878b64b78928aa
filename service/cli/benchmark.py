"""Measuring a model, or a running server."""

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import MofNCompleteColumn
from rich.table import Table

from service.cli.options import (
    DeviceOption,
    PrecisionOption,
    WeightsOption,
    api_key,
    load_settings,
)
from service.cli.terminal import console, fail, progress_bar

if TYPE_CHECKING:
    from model.benchmark import BatchReport
    from service.benchmark import Benchmark, Load, Plan, Point, Report

app = typer.Typer(help="Measure a model, or a running server.", no_args_is_help=True)


@app.command("model")
def benchmark_model(
    photo: Annotated[Path, typer.Argument(help="Photo to take from bytes to polygons.")],
    weights: WeightsOption = None,
    variant: Annotated[
        str | None, typer.Option(help="An official network, r50_3x say, with random weights.")
    ] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    size: Annotated[
        str | None, typer.Option(help="Make it a JPEG of so many pixels first: 1333x800.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Photos at once.", min=1)] = 1,
    threads: Annotated[int | None, typer.Option(help="Of the processor.", min=1)] = None,
    repeats: Annotated[int, typer.Option(help="Runs to take the median of.", min=1)] = 10,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Also write a Chrome trace.")] = None,
) -> None:
    """Milliseconds of each stage, beside those of MMDetection's way to the same results."""
    import torch

    from model.benchmark import Benchmark, network_flops, peak_flops, random_checkpoint
    from model.config import VARIANTS
    from model.predictor import Predictor

    settings = load_settings(weights=weights, devices=device, precision=precision)
    if variant is not None and variant not in VARIANTS:
        fail(f"there is no variant {variant}; there are {', '.join(VARIANTS)}")
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        if variant is None:
            load = partial(Predictor.load, settings.weights_path)
        else:
            load = partial(Predictor.from_checkpoint, random_checkpoint(VARIANTS[variant]))
        fast, plain = (
            load(settings.devices[0], settings.precision, exact=exact) for exact in (False, True)
        )
        benchmark = Benchmark(
            fast,
            plain,
            photo.read_bytes() if size is None else _resized(photo, size),
            batch_size=batch,
            tolerance_px=settings.polygon_tolerance_px,
        )
        report = benchmark.measure(repeats)
        if trace is not None:
            benchmark.trace(trace)
    except (ValueError, OSError) as error:
        fail(error)
    flops = network_flops(fast.config, batch, report.canvas)
    achieved = flops / report.fast.parts["network"] * 1000
    peak = peak_flops(fast.device, fast.dtype)
    console.print(_stage_table(report))
    console.print(
        f"{report.size[1]}x{report.size[0]} pixels on {report.canvas[1]}x{report.canvas[0]}, "
        f"batch {batch}, {report.candidates} candidates, {report.instances} instances\n"
        f"network: {flops / 1e9:.1f} GFLOP at {achieved / 1e9:.0f} GFLOP/s, "
        f"{achieved / peak:.0%} of the {peak / 1e9:.0f} measured here; median of {repeats}"
    )
    if out is not None:
        figures = {
            **asdict(report),
            "ratios": report.ratios(),
            "batch": batch,
            "repeats": repeats,
            "device": str(fast.device),
            "dtype": str(fast.dtype),
            "threads": torch.get_num_threads(),
            "flops": flops,
            "peak_flops": peak,
        }
        out.write_text(json.dumps(figures, indent=2) + "\n")


def _resized(photo: Path, size: str) -> bytes:
    """The photo as a JPEG of ``WIDTHxHEIGHT`` pixels."""
    import cv2
    import simplejpeg

    from model.decode import read_image

    sides = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    if sides is None:
        fail(f"--size takes a width and a height, 1333x800 say, not {size}")
    pixels = cv2.resize(read_image(photo), (int(sides[1]), int(sides[2])))
    return simplejpeg.encode_jpeg(pixels)


def _stage_table(report: "BatchReport") -> Table:
    """Milliseconds of both ways, stage by stage, then of the parts with their ratio."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("ms")
    for heading in ("here", "plain", "ratio"):
        table.add_column(heading, justify="right")
    fast, plain = report.fast, report.plain
    for stage in {**fast.stages, **plain.stages}:
        times = (times.stages.get(stage) for times in (fast, plain))
        table.add_row(stage, *("-" if time is None else f"{time:.1f}" for time in times))
    for part, ratio in report.ratios().items():
        table.add_row(
            f"all: {part}", f"{fast.parts[part]:.1f}", f"{plain.parts[part]:.1f}", f"{ratio:.2f}"
        )
    return table


@app.command("http")
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
            fail(f"{file}: its folder does not exist")
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
        report = asyncio.run(_measure(Benchmark(url, images, plan, api_key=api_key()), plan, loads))
    except (BenchmarkError, ValueError) as error:
        fail(error)
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
        fail(f"--concurrency and --rate take numbers with commas between them: {error}")
    if not all(0 < number < float("inf") for number in (*clients, *rates)):
        fail("--concurrency and --rate take numbers above 0")
    return [*map(ClosedLoop, clients), *(OpenLoop(number, seed) for number in rates)]


async def _measure(benchmark: "Benchmark", plan: "Plan", loads: "list[Load]") -> "Report":
    from service.benchmark import Report

    await benchmark.require_server()
    points = []
    with progress_bar(MofNCompleteColumn()) as progress:
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
