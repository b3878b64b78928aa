"""The training loop: what it reads, what it writes, when it stops.

In the output folder: ``last.pt`` is the whole state, from which an interrupted run goes on
exactly; ``last.safetensors`` and ``best.safetensors`` are averaged weights ready for use;
``log.jsonl`` has a line for each measurement, and ``report.html`` shows it all in the end.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from model.backbone import MobileNetV2Backbone
from model.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from model.config import PreprocessConfig
from model.memory import keep_freed_memory
from model.preprocess import STRIDE
from model.solov2 import SOLOv2
from model.training.augment import Augment, Batch, Collate
from model.training.config import TrainConfig
from model.training.data import load_data
from model.training.dataset import AnnotatedDataset
from model.training.ema import EMA
from model.training.initial import initial_network
from model.training.journal import Journal
from model.training.losses import Losses, solov2_losses
from model.training.optimiser import (
    build_optimiser,
    freeze_stages,
    learning_rate_factor,
    set_learning_rate,
    set_training_mode,
)
from model.training.pace import Pace
from model.training.report import write_report
from model.training.sampler import AugmentedDataset, BatchSampler, batches_per_epoch
from model.training.validation import Validation, validation_line
from model.training.world import World, join_world

_STATE = "last.pt"
_LONGEST_WARMUP = 500  # iterations, MMDetection's

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run left behind."""

    iterations: int
    last: Path
    best: Path | None  # None without validation
    best_mask_ap: float | None
    report: Path


def train(config: TrainConfig) -> TrainResult | None:
    """Train until ``config`` says enough, and write a report.

    Run it under ``torchrun`` to share each batch among several processes.

    Returns:
        What is left, in the first of the processes; None in the others.

    Raises:
        ValueError: The data, the start weights or the output folder cannot be used.
        FloatingPointError: The loss is no longer a finite number.
    """
    with join_world(config.device) as world:
        return Trainer(config, world).run()


class Trainer:
    """One process's part of a training run, and all of its state."""

    def __init__(self, config: TrainConfig, world: World) -> None:
        if config.batch_size % world.size:
            raise ValueError(f"{world.size} processes cannot share batches of {config.batch_size}")
        if not config.resume and (config.output / _STATE).exists():
            raise ValueError(
                f"{config.output} holds a run already: resume it, or choose another folder"
            )
        torch.manual_seed(config.seed)
        self.config = config
        self.world = world
        self.data = load_data(config, check=world.is_main)
        self.dataset = AnnotatedDataset(
            self.data.train, self.data.class_names, apply_exif=config.apply_exif
        )
        self.epoch_length = batches_per_epoch(len(self.dataset), config.batch_size)
        self.total = _total_iterations(config, self.epoch_length)

        model, self.network_config = initial_network(
            self.data.class_names,
            variant=config.variant,
            weights=config.weights,
            backbone_weights=config.backbone_weights,
            short_side=None if config.short_sides is None else max(config.short_sides),
            long_side=config.long_side,
        )
        freeze_stages(model.backbone, config.freeze_stages)
        self.model = _suit_device(model.to(world.device))
        self.ema = EMA(self.model, config.ema_decay)
        self.network = world.wrap(self.model)
        self.optimiser = build_optimiser(self.model, config)
        self.dtype = _dtype(config.precision, world.device)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.dtype == torch.float16)
        self.iteration = 0
        self.validation = None
        if self.data.validation is not None:
            self.validation = Validation(
                self.data.validation, self.data.class_names, config, str(world.device)
            )

    def run(self) -> TrainResult | None:
        """Train from the saved state, or the start, to the end."""
        self.config.output.mkdir(parents=True, exist_ok=True)
        self._resume()
        if self.world.is_main:
            log = self.config.output / "log.jsonl"
            board = self.config.output / "tensorboard" if self.config.tensorboard else None
            with Journal(log, iteration=self.iteration, total=self.total, board=board) as journal:
                self._iterate(journal)
            write_report(self.config, self.data, self._result(), str(self.world.device))
        else:
            self._iterate(None)
        self.world.wait()
        return self._result() if self.world.is_main else None

    def _result(self) -> TrainResult:
        mask_ap = None if self.validation is None else self.validation.best_mask_ap
        return TrainResult(
            iterations=self.iteration,
            last=self.config.output / "last.safetensors",
            best=None if self.validation is None or mask_ap is None else self.validation.best,
            best_mask_ap=mask_ap,
            report=self.config.output / "report.html",
        )

    def _iterate(self, journal: Journal | None) -> None:
        if self._gives_up():
            return
        pace = Pace(self.config)
        for batch in self.loader():
            losses = self.step(batch)
            pace.add(losses)
            if journal is not None:
                journal.advance(self.iteration)
                if self.iteration % self.config.log_every == 0 or self.iteration == self.total:
                    journal.write(self.iteration, **self._measurements(pace))
            validates = self._validates_now()
            if journal is not None and (validates or pace.state_is_due(self.iteration)):
                with pace.saving():
                    self._save_weights()
                    self._save_state()  # before measuring, which may fail
                    if validates:
                        self._validate(journal)
                        self._save_state()
            if validates and self._gives_up():
                return

    def _gives_up(self) -> bool:
        """Whether the first process, which alone measures, has seen enough."""
        enough = self.world.is_main and self.validation is not None and self.validation.gives_up
        return self.world.sum(enough).item() > 0

    def loader(self) -> DataLoader[Any]:
        """This process's batches from the current iteration to the last."""
        config = self.config
        sampler = BatchSampler(
            self.dataset.landscape(),
            batch_size=config.batch_size,
            short_sides=config.short_sides or _short_sides(self.network_config.preprocess),
            seed=config.seed,
            first=self.iteration,
            last=self.total,
            rank=self.world.rank,
            world_size=self.world.size,
        )
        samples = AugmentedDataset(
            self.dataset,
            Augment(config.augment),
            long_side=self.network_config.preprocess.long_side,
        )
        return DataLoader(
            samples,
            batch_sampler=sampler,
            num_workers=config.workers,
            collate_fn=Collate(self.network_config),
            pin_memory=self.world.device.type == "cuda",
            prefetch_factor=4 if config.workers else None,
            worker_init_fn=_use_one_thread,
        )

    def step(self, batch: Batch) -> Losses:
        """Learn from one batch; returns its losses, detached.

        Raises:
            FloatingPointError: Loss or gradients are not finite; the weights are unchanged.
        """
        rate = self.config.learning_rate * learning_rate_factor(
            self.iteration,
            total=self.total,
            warmup=_warmup(self.config, self.total),
            schedule=self.config.schedule,
        )
        set_learning_rate(self.optimiser, rate)
        losses = self._losses(batch.to(self.world.device))
        self.optimiser.zero_grad()
        # The processes' gradients will be averaged, but their losses are parts of one sum.
        total = losses.total * self.world.size
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        norm = clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        # With fp16 some gradients overflow in regular course, and the scaler skips their step.
        if not torch.isfinite(total if self.scaler.is_enabled() else total + norm):
            raise FloatingPointError(
                f"loss {total.item()} with gradients of norm {norm.item()} at iteration "
                f"{self.iteration}; a lower learning rate or a longer warm-up may help"
            )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.ema.update(self.model)
        self.iteration += 1
        return Losses(losses.mask.detach(), losses.category.detach())

    def _losses(self, batch: Batch) -> Losses:
        set_training_mode(self.model)
        enabled = self.dtype != torch.float32
        with torch.autocast(self.world.device.type, self.dtype, enabled=enabled):
            output = self.network(batch.images)
        positives = self.world.sum(batch.targets.num_positives)
        return solov2_losses(output, batch.targets, positives)

    def _measurements(self, pace: Pace) -> dict[str, float]:
        seen = pace.take()
        return {
            "epoch": self.iteration / self.epoch_length,
            "loss_mask": seen.mask * self.world.size,
            "loss_category": seen.category * self.world.size,
            "learning_rate": self.optimiser.param_groups[-1]["lr"],
            "images_per_s": seen.steps_per_s * self.config.batch_size,
        }

    def _validates_now(self) -> bool:
        every = max(1, round(self.config.validate_every_epochs * self.epoch_length))
        return self.iteration == self.total or self.iteration % every == 0

    def _validate(self, journal: Journal) -> None:
        """Measure the weights just saved."""
        if self.validation is not None:
            report = self.validation.measure(self.config.output / "last.safetensors")
            journal.write(self.iteration, **validation_line(report))

    def _save_weights(self) -> None:
        save_checkpoint(
            self.config.output / "last.safetensors",
            Checkpoint(self.network_config, self.ema.model.state_dict()),
        )

    def _save_state(self) -> None:
        """Everything that later iterations depend on; batches follow from their number."""
        state = {
            "network": repr(self.network_config),
            "iteration": self.iteration,
            "validation": None if self.validation is None else self.validation.state_dict(),
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "ema_updates": self.ema.updates,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        path = self.config.output / _STATE
        unfinished = path.with_suffix(".pt.unfinished")
        torch.save(state, unfinished)
        unfinished.replace(path)

    def _resume(self) -> None:
        path = self.config.output / _STATE
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.world.device, weights_only=True)
        except Exception as error:  # a damaged file trips the reader in many ways
            raise CheckpointError(f"{path}: damaged; delete it to start anew") from error
        if state["network"] != repr(self.network_config):
            raise CheckpointError(f"{path}: the state of a run with another network or classes")
        self.iteration = state["iteration"]
        if self.validation is not None and state["validation"] is not None:
            self.validation.load_state_dict(state["validation"])
        self.model.load_state_dict(state["model"])
        self.ema.model.load_state_dict(state["ema"])
        self.ema.updates = state["ema_updates"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])


def _total_iterations(config: TrainConfig, epoch_length: int) -> int:
    total = max(1, round(config.epochs * epoch_length))
    return total if config.max_iterations is None else min(total, config.max_iterations)


def _suit_device(model: SOLOv2) -> SOLOv2:
    """Channels last where it pays: on a CPU in MobileNetV2 alone, for its depthwise convolutions.

    With it the gradients of other convolutions' weights take a CPU up to three times as long.
    """
    if next(model.parameters()).device.type != "cpu":
        return model.to(memory_format=torch.channels_last)
    keep_freed_memory()
    if isinstance(model.backbone, MobileNetV2Backbone):
        model.backbone.to(memory_format=torch.channels_last)
        model.fpn.register_forward_pre_hook(_channels_first)
    return model


def _channels_first(_: nn.Module, inputs: tuple[tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...]]:
    (maps,) = inputs
    return (tuple(level.contiguous() for level in maps),)


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    return _DTYPES[precision]


def _warmup(config: TrainConfig, total: int) -> int:
    if config.warmup_iterations is not None:
        return config.warmup_iterations
    return min(_LONGEST_WARMUP, total // 10)


def _short_sides(preprocess: PreprocessConfig) -> list[int]:
    """From 3/4 of the network's own to that in steps of the stride, about as MMDetection does."""
    largest = preprocess.short_side
    return [*range(largest, round(0.75 * largest) - 1, -STRIDE)][::-1]


def _use_one_thread(worker: int) -> None:  # noqa: ARG001
    """The processes are the parallelism; OpenCV's own threads do not survive a fork either."""
    cv2.setNumThreads(0)
