"""Everything a training run can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.config import VARIANTS


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """How often, and how strongly, a training picture is changed.

    ``crop`` is the probability of cutting out a window of the picture's own aspect ratio whose
    sides are at least ``crop_scale`` of the picture's; objects that keep less than
    ``crop_visible`` of their area are forgotten. ``blank`` is the probability of a plain or
    gradient picture without objects in the place of the photo: SOLOv2 otherwise finds things
    where there is nothing to see.
    """

    flip: float = 0.5
    crop: float = 0.5
    crop_scale: float = 0.5
    crop_visible: float = 0.25
    colour: float = 0.5
    blank: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run. Defaults fine-tune on a small data set; sizes are in pixels.

    Data:
        train_data: Annotations to learn from, of any format of ``read_annotations``.
        train_images: Folder of their pictures, if not where the format has them.
        val_data, val_images: The same to measure mask AP on. Without them, and without
            ``val_fraction``, the last weights are the result.
        val_fraction: Share of the training pictures that is held out to measure on instead.
        class_names: Names in label order; all classes of the training data unless given.
        apply_exif: Turn pictures as their EXIF orientation says. Annotations usually refer to
            the stored pixel grid.
        output: Folder for weights, log, report and the state to resume from.
        resume: Go on from the state in ``output`` if there is one; without it such a folder is
            refused.

    Network:
        variant: Key of ``VARIANTS``; not used with ``weights``.
        weights: Any checkpoint to start from, ours or a published ``.pth``. Its architecture is
            kept; classes that it knows by name keep their weights, others start fresh.
        backbone_weights: A torchvision ``.pth`` state dict to start the backbone from.
        freeze_stages: How many backbone stages stay as they are, the stem counting with the
            first; MMDetection's SOLOv2 freezes 1.

    Optimisation:
        epochs: Passes over the data; fractions are fine. ``max_iterations`` cuts them short.
        batch_size: Pictures in a step, over all processes.
        learning_rate: Peak, for ``batch_size``; times ``backbone_lr_factor`` in the backbone.
        momentum: Of SGD.
        warmup_iterations: Steps of linear increase from a thousandth of the rate; a tenth of
            the run, at most 500, unless given.
        schedule: ``cosine`` to zero, or ``step``: a tenth after 3/4 and again after 11/12 of
            the run.
        clip_grad_norm: Largest L2 norm of all gradients together.
        ema_decay: Of the averaged weights, which are the ones saved and measured.
        precision: Of the network's forward and backward pass; ``auto`` is bf16 on CUDA and
            fp32 on a CPU. Loss and weights are always fp32.

    Pictures:
        short_sides: Each batch draws one of these as the length of its short sides; the largest
            is that of pictures the network is later asked about. Unless given, from 3/4 of
            the start weights' own to that.
        long_side: Upper limit of the long sides, then and later; the start weights' own unless
            given.
        augment: Random changes.

    Conduct:
        workers: Loader processes of each training process; 0 loads in the training process.
        log_every: Iterations between log lines.
        checkpoint_every: Iterations between states on disk; ``checkpoint_every_s`` does the
            same by the clock, and whichever comes first counts.
        validate_every_epochs: Epochs between measurements; the end is always measured.
        early_stopping: End after so many measurements in a row that were not the best.
        tensorboard: Also write curves for TensorBoard into ``output``.
    """

    train_data: Path
    output: Path
    train_images: Path | None = None
    val_data: Path | None = None
    val_images: Path | None = None
    val_fraction: float = 0
    resume: bool = False
    class_names: tuple[str, ...] | None = None
    apply_exif: bool = False

    variant: str = "mobile"
    weights: Path | None = None
    backbone_weights: Path | None = None
    freeze_stages: int = 0

    epochs: float = 36
    max_iterations: int | None = None
    batch_size: int = 8
    learning_rate: float = 4e-4
    backbone_lr_factor: float = 0.3
    optimiser: Literal["sgd", "adamw"] = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.02
    warmup_iterations: int | None = None
    schedule: Literal["cosine", "step"] = "cosine"
    clip_grad_norm: float = 35.0
    ema_decay: float = 0.999
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"

    short_sides: tuple[int, ...] | None = None
    long_side: int | None = None
    augment: AugmentConfig = AugmentConfig()

    device: str = "auto"
    workers: int = 2
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 1000
    checkpoint_every_s: float = 600
    validate_every_epochs: float = 1
    early_stopping: int | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"no variant {self.variant!r}; there are {', '.join(VARIANTS)}")
        if not 0 <= self.val_fraction < 1 or (self.val_fraction and self.val_data):
            raise ValueError("either validation data, or a fraction below 1 of the training data")
        if self.early_stopping is not None:
            if self.early_stopping < 1:
                raise ValueError("early stopping has to wait for at least one measurement")
            if self.val_data is None and not self.val_fraction:
                raise ValueError("early stopping needs validation data, or a fraction to hold out")
        if self.batch_size < 1 or self.epochs <= 0 or self.validate_every_epochs <= 0:
            raise ValueError("batch size and epochs have to be positive")
        if self.learning_rate <= 0 or self.clip_grad_norm <= 0:
            raise ValueError("rates and norms have to be positive")
        if self.short_sides is not None and min(self.short_sides, default=0) < 32:
            raise ValueError("short sides have to be at least 32 pixels")
        if not 0 <= self.freeze_stages <= 4:
            raise ValueError(f"a backbone has 4 stages, {self.freeze_stages} cannot be frozen")
