"""Training."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service.cli.options import ApplyExifOption, DeviceOption, PrecisionOption, load_settings
from service.cli.terminal import fail, say, train_extra


def train(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            "--annotations",
            help="COCO .json, Azure .jsonl or MLTable folder, folder with VOC masks.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights, log, report and state.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures, if not beside the annotations.")
    ] = None,
    val_data: Annotated[
        Path | None,
        typer.Option("--val-data", "--val-annotations", help="The same, to measure AP on."),
    ] = None,
    val_images: Annotated[Path | None, typer.Option(help="Pictures of those.")] = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="Instead: share of the data to hold out, such as 0.2.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where --out was interrupted, if it was.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(help="Start from this .safetensors or .pth; the shipped model unless given."),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Start with this architecture, untrained.")
    ] = None,
    backbone: Annotated[
        Path | None, typer.Option(help="With --variant: torchvision's .pth for the backbone.")
    ] = None,
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
    freeze_stages: Annotated[
        int | None,
        typer.Option("--freeze-stages", "--freeze", help="Backbone stages left alone, 0 to 4."),
    ] = None,
    short_side: Annotated[
        list[int] | None, typer.Option(help="Short side in pixels; repeat it for multi-scale.")
    ] = None,
    long_side: Annotated[int | None, typer.Option(help="Longest long side in pixels.")] = None,
    early_stopping: Annotated[
        int | None, typer.Option(help="End after N measurements without a better mask AP.")
    ] = None,
    validate_every: Annotated[
        float | None, typer.Option(help="Epochs between measurements.")
    ] = None,
    apply_exif: ApplyExifOption = None,
    precision: PrecisionOption = None,
    device: DeviceOption = None,
    workers: Annotated[int | None, typer.Option(help="Loader processes per GPU.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write curves for TensorBoard.")
    ] = False,
) -> None:
    """Fine-tune on your own pictures, or train from nothing with --variant."""
    with train_extra():
        from model.training.config import TrainConfig
        from model.training.train import train as run_training

    if weights is None and variant is None and backbone is None:
        weights = load_settings().weights_path
    given: dict[str, Any] = {
        "train_data": data,
        "train_images": images,
        "output": out,
        "val_data": val_data,
        "val_images": val_images,
        "val_fraction": val_fraction,
        "resume": resume,
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
        "early_stopping": early_stopping,
        "validate_every_epochs": validate_every,
        "apply_exif": apply_exif,
        "precision": precision,
        "device": device,
        "workers": workers,
        "seed": seed,
        "tensorboard": tensorboard,
    }
    try:
        result = run_training(TrainConfig(**{k: v for k, v in given.items() if v is not None}))
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        fail(error)
    if result is None:  # one process speaks for all
        return
    best = f", best mask AP {result.best_mask_ap:.3f} in {result.best}" if result.best else ""
    say(f"{result.iterations} iterations, last weights in {result.last}{best}")
    say(f"report: {result.report}")
