"""The metrics of Azure Machine Learning's evaluation of instance segmentation.

VOC style, and not comparable with COCO's: one IoU threshold, the area under each class's whole
precision-recall curve, and precision and recall of all that passes one score threshold.
Definitions: ``azureml-metrics`` 0.0.91, ``vision/od_is_eval``, and the thresholds that
``azureml-evaluate-mlflow`` gives it. Needs the ``train`` extra.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as rle

from model.detections import RunLengths

UNDEFINED = -1.0


@dataclass(frozen=True, slots=True)
class Truth:
    """One annotated object."""

    label: str
    mask: RunLengths
    crowd: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """One detected object."""

    label: str
    mask: RunLengths
    score: float


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """Numbers in [0, 1], or ``UNDEFINED``.

    ``recall`` and ``precision`` are those of all detections together. Without annotated objects
    average precision and recall are undefined, without detections precision is.
    """

    average_precision: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class VocReport:
    """Means over the labels for which a figure is defined, 0 where it is for none."""

    mean_average_precision: float
    precision: float
    recall: float
    per_label_metrics: dict[str, LabelMetrics]
    iou_threshold: float
    score_threshold: float


class _Verdict(Enum):
    RIGHT = 1
    WRONG = 2
    NEUTRAL = 3  # on a crowd region


def voc_metrics(
    images: Iterable[tuple[Sequence[Truth], Sequence[Found]]],
    labels: Sequence[str],
    *,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.3,
) -> VocReport:
    """Judge what was found in each image.

    Labels outside of ``labels`` do not count, neither as truth nor as found.

    Args:
        images: What each image holds, and what was found in it; masks of one size an image.
        labels: Every label to be judged.
        iou_threshold: From which on a detection may be right.
        score_threshold: Detections below it do not exist.
    """
    tallies = {label: _Tally() for label in labels}
    for truths, found in images:
        confident = [one for one in found if one.score >= score_threshold]
        for label, tally in tallies.items():
            tally.add(
                [truth for truth in truths if truth.label == label],
                [one for one in confident if one.label == label],
                iou_threshold,
            )
    metrics = {label: tally.metrics() for label, tally in tallies.items()}
    return VocReport(
        mean_average_precision=_mean(m.average_precision for m in metrics.values()),
        precision=_mean(m.precision for m in metrics.values()),
        recall=_mean(m.recall for m in metrics.values()),
        per_label_metrics=metrics,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
    )


class _Tally:
    """What is known of one label so far."""

    def __init__(self) -> None:
        self._objects = 0
        self._verdicts: list[tuple[float, _Verdict]] = []  # with the score

    def add(self, truths: Sequence[Truth], found: Sequence[Found], iou_threshold: float) -> None:
        """The objects of this label in one more image."""
        self._objects += sum(not truth.crowd for truth in truths)
        best_first = sorted(found, key=lambda one: -one.score)
        verdicts = _judge(truths, best_first, iou_threshold)
        self._verdicts += zip((one.score for one in best_first), verdicts, strict=True)

    def metrics(self) -> LabelMetrics:
        if self._objects == 0:
            return LabelMetrics(UNDEFINED, 0.0 if self._verdicts else UNDEFINED, UNDEFINED)
        if not self._verdicts:
            return LabelMetrics(0.0, UNDEFINED, 0.0)
        best_first = sorted(self._verdicts, key=lambda verdict: -verdict[0])
        right = np.cumsum([verdict is _Verdict.RIGHT for _, verdict in best_first])
        wrong = np.cumsum([verdict is _Verdict.WRONG for _, verdict in best_first])
        precision = right / np.maximum(right + wrong, 1)
        recall = right / self._objects
        return LabelMetrics(_area_under(precision, recall), float(precision[-1]), float(recall[-1]))


def _judge(
    truths: Sequence[Truth], best_first: Sequence[Found], iou_threshold: float
) -> list[_Verdict]:
    """Each detection may take only the object that it overlaps most, and only the first does."""
    if not truths:
        return [_Verdict.WRONG] * len(best_first)
    if not best_first:
        return []
    # With a crowd region the share of the detection that lies in it.
    ious = rle.iou(
        [one.mask for one in best_first],
        [truth.mask for truth in truths],
        [int(truth.crowd) for truth in truths],
    )
    taken: set[int] = set()
    verdicts = []
    for row in np.asarray(ious):
        nearest = int(row.argmax())
        if row[nearest] < iou_threshold:
            verdicts.append(_Verdict.WRONG)
        elif truths[nearest].crowd:
            verdicts.append(_Verdict.NEUTRAL)
        else:
            verdicts.append(_Verdict.WRONG if nearest in taken else _Verdict.RIGHT)
            taken.add(nearest)
    return verdicts


def _area_under(precision: npt.NDArray[np.float64], recall: npt.NDArray[np.float64]) -> float:
    """Of the curve that no later, higher precision can lift any more; (R,) both, recall rising."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(envelope * np.diff(recall, prepend=0.0)))


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if value != UNDEFINED]
    return sum(defined) / len(defined) if defined else 0.0
