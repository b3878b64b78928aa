"""Scoring a few photos."""

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.options import (
    DeviceOption,
    PrecisionOption,
    WeightsOption,
    connect,
    load_settings,
)
from service.cli.terminal import fail, say


def predict(
    photos: Annotated[list[Path], typer.Argument(help="Photos to score.")],
    out: Annotated[Path, typer.Option(help="Folder for the JSON and the pictures.")],
    url: Annotated[str | None, typer.Option(help="Ask this server instead of a model.")] = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    min_score: Annotated[float, typer.Option(help="Draw instances of at least this score.")] = 0.3,
    panoptic: Annotated[
        bool, typer.Option("--panoptic", help="Also write maps of them without overlaps.")
    ] = False,
) -> None:
    """Score photos; write what /score would answer, and pictures of it."""
    from model.checkpoint import CheckpointError
    from service.client import ScoreError
    from service.panoptic import PanopticFolder
    from service.predict import predict_photos
    from service.worker.stages import Stages, load_predictor

    settings = load_settings(weights=weights, devices=device, precision=precision)
    failed = 0
    try:
        with contextlib.ExitStack() as at_the_end:
            if url is None:
                stages = Stages(load_predictor(settings, settings.devices[0]), settings)
                class_names = stages.predictor.config.class_names
                score = lambda data: json.loads(stages.score(data))  # noqa: E731
            else:
                client = at_the_end.enter_context(connect(url))
                class_names = ()
                score = lambda data: client.score([data])[0]  # noqa: E731
            maps = PanopticFolder(out / "panoptic", class_names) if panoptic else None
            if maps is not None:
                at_the_end.callback(maps.write_index)
            for result in predict_photos(
                photos,
                out,
                score,
                min_score=min_score,
                apply_exif=settings.apply_exif,
                panoptic=maps,
            ):
                failed += result.error is not None
                summary = _summary(result.answer, min_score, result.error)
                say(f"{result.photo}: {summary}")
    except (CheckpointError, ScoreError, ValueError, OSError) as error:
        fail(error)
    raise typer.Exit(1 if failed else 0)


def _summary(answer: dict[str, Any] | None, min_score: float, error: str | None) -> str:
    if answer is None:
        return f"error: {error}"
    seen = [box for box in answer["boxes"] if box["score"] >= min_score]
    return ", ".join(f"{box['label']} {box['score']:.2f}" for box in seen) or "nothing found"
