"""Measuring a run on held-out pictures: which weights were best, and when to give up."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.annotations.annotated import AnnotationSet
from model.annotations.coco import write_coco
from model.evaluate import CocoReport, evaluate_coco
from model.predictor import Predictor
from model.training.config import TrainConfig


class Validation:
    """The mask AP of a run's weights, and the best of them.

    Args:
        annotations: The pictures; written into the output folder as ``val.json``, so that
            ``solov2 evaluate`` can be given the same.
        class_names: C names in label order.
        config: Of the run.
        device: To compute on.
    """

    def __init__(
        self,
        annotations: AnnotationSet,
        class_names: Sequence[str],
        config: TrainConfig,
        device: str,
    ) -> None:
        self._annotations = annotations
        self._class_names = class_names
        self._config = config
        self._device = device
        self._listing: Path | None = None
        self.best_mask_ap: float | None = None
        self.since_best = 0

    @property
    def gives_up(self) -> bool:
        """Whether early stopping was asked for and has waited long enough."""
        patience = self._config.early_stopping
        return patience is not None and self.since_best >= patience

    @property
    def best(self) -> Path:
        return self._config.output / "best.safetensors"

    def measure(self, weights: Path) -> CocoReport:
        """Score a weights file, and keep a copy if none was better."""
        if self._listing is None:
            self._listing = self._config.output / "val.json"
            pictures = ((image, image.path) for image in self._annotations.images)
            write_coco(self._listing, pictures, self._class_names)
        predictor = Predictor.load(weights, self._device, self._config.precision)
        report = evaluate_coco(
            predictor.predict,
            self._class_names,
            self._listing.parent,
            self._listing,
            apply_exif=self._config.apply_exif,
        )
        self.since_best += 1
        if self.best_mask_ap is None or report.mask_ap > self.best_mask_ap:
            self.best_mask_ap, self.since_best = report.mask_ap, 0
            _copy_atomically(weights, self.best)
        return report

    def state_dict(self) -> dict[str, Any]:
        return {"best_mask_ap": self.best_mask_ap, "since_best": self.since_best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_mask_ap, self.since_best = state["best_mask_ap"], state["since_best"]


def validation_line(report: CocoReport) -> dict[str, Any]:
    """What the log keeps of a measurement."""
    return {
        "mask_ap": report.mask_ap,
        "mask_ap50": report.mask.ap50,
        "mask_ap75": report.mask.ap75,
        "box_ap": report.box_ap,
        "validation_s": report.seconds,
        "per_class": {
            name: {
                "mask_ap": result.mask.ap,
                "mask_ap50": result.mask.ap50,
                "mask_ap75": result.mask.ap75,
                "box_ap": result.box.ap,
            }
            for name, result in report.per_class.items()
        },
    }


def _copy_atomically(source: Path, target: Path) -> None:
    unfinished = target.with_suffix(".unfinished")
    shutil.copyfile(source, unfinished)
    unfinished.replace(target)
