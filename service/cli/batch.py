"""Scoring any number of images."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import TextColumn

from service.cli.options import DeviceOption, PrecisionOption, WeightsOption, load_settings
from service.cli.terminal import console, fail, progress_bar, say
from service.logs import configure_logging
from service.settings import Settings

if TYPE_CHECKING:
    from service.batch.results import Result, ResultFile
    from service.batch.sources import Source
    from service.batch.tally import Tally

    Engine = Callable[[Source, ResultFile, Settings, Callable[[Result], None]], None]

_BAR_EVERY_S = 0.2
_LINE_EVERY_S = 10.0


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
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="This machine, or all of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str, typer.Option(help="Of the cluster, host:port; auto is the one this machine is in.")
    ] = "auto",
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

    settings = load_settings(
        weights=weights,
        devices=device,
        precision=precision,
        score_threshold=score_threshold,
        apply_exif=apply_exif,
    )
    try:
        run = _ray_engine(address) if engine == "ray" else _local_engine()
        tally = _run_batch(source, out, column, overwrite, settings, run)
    except (BatchError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    before = f", {tally.found} were there before" if tally.found else ""
    say(f"{out}: {tally.new} images, {tally.errors} errors{before}")


def _local_engine() -> "Engine":
    from service.batch.scoring import run_batch

    return lambda source, results, settings, note: asyncio.run(
        run_batch(source.items(), results, settings, note)
    )


def _ray_engine(address: str) -> "Engine":
    from service.batch.errors import BatchError

    try:
        from service.cluster.ray_data import run_batch  # an extra
    except ModuleNotFoundError as error:
        why = f"{error.name} is not installed; pip install 'solov2[ray]' brings it"
        raise BatchError(why) from None
    return lambda source, results, settings, note: run_batch(
        source.items, results, settings, note, address
    )


def _run_batch(
    given: str, out: Path, column: str, overwrite: bool, settings: Settings, run: "Engine"
) -> "Tally":
    from service.batch.errors import BatchError
    from service.batch.results import ResultFile
    from service.batch.sources import open_source
    from service.batch.tally import Tally

    if not settings.weights_path.exists():
        raise BatchError(f"{settings.weights_path}: no such weights file")
    source = open_source(given, column=column, max_image_bytes=settings.max_image_bytes)
    with ResultFile(out, overwrite=overwrite) as results:
        configure_logging(sys.stderr)  # says why a URL gave nothing, or a worker ended
        tally = Tally(results.found)
        with _shown(tally, source.count):
            run(source, results, settings, tally.note)
    return tally


@contextlib.contextmanager
def _shown(tally: "Tally", count: Callable[[], int | None]) -> Iterator[None]:
    """A bar on a terminal, else a line now and then. Both come from a thread of their own."""
    ended = threading.Event()

    def show() -> None:
        with progress_bar(TextColumn("{task.fields[tally]}"), remaining=False) as progress:
            task = progress.add_task("scoring", total=None, tally=tally)
            while not ended.wait(_BAR_EVERY_S if console.is_terminal else _LINE_EVERY_S):
                progress.update(task, completed=tally.done, total=tally.total)
                if not console.is_terminal:
                    say(tally)

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
