"""Getting at weights."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import DownloadColumn, TransferSpeedColumn

from service.cli.terminal import fail, progress_bar, say
from service.settings import cache_folder


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
        fail(error)
    say(f"{out}: {report.variant}, {len(report.class_names)} classes, {report.entries} entries")


def download(
    variant: Annotated[str, typer.Argument(help="r50_1x, r50_3x, light_r18_3x ...")],
    base_url: Annotated[str | None, typer.Option(help="A mirror of the published files.")] = None,
) -> None:
    """Fetch, verify and convert the published weights of an official variant."""
    from model.checkpoint import CheckpointError
    from service.download import DownloadError, download_weights

    try:
        with progress_bar(DownloadColumn(), TransferSpeedColumn()) as progress:
            task = progress.add_task(variant, total=None)
            path = download_weights(
                variant,
                cache_folder(),
                base_url=base_url,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except (CheckpointError, DownloadError, OSError) as error:
        fail(error)
    say(path)
