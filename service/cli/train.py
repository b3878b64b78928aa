"""Training."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service.cli.options import ApplyExifOption, DeviceOption, PrecisionOption
from service.cli.terminal import fail, say, train_extra


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
    with train_extra():
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
        fail(error)
    best = f", best mask AP {result.best_mask_ap:.3f} in {result.best}" if result.best else ""
    say(f"{result.iterations} iterations, last weights in {result.last}{best}")
