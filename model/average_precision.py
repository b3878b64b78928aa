"""COCO's average precision and recall, to the numbers of pycocotools. Needs the ``train`` extra."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from model.detections import Detections

# Axes of COCO's tables: T IoU thresholds 0.50, 0.55 ... 0.95; R recalls; K categories;
# A areas (all, small, medium, large); M limits on detections per image (1, 10, 100).
_IOU_50, _IOU_75 = 0, 5


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's numbers in [0, 1]; -1 where the ground truth holds nothing to measure.

    ``ap`` averages over IoU 0.50 to 0.95. Small objects are below 32x32 pixels, large ones
    above 96x96. ``ar1``, ``ar10`` and ``ar100`` are the recall with at most so many detections
    an image, averaged over the same IoUs; the recall by size is with 100.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float


@dataclass(frozen=True, slots=True)
class CocoScores:
    """``curves`` are the precision at IoU 0.5 at recalls 0, 0.01 ... 1, -1 without truth."""

    overall: AveragePrecision
    per_class: dict[str, AveragePrecision]
    curves: dict[str, tuple[float, ...]]


def average_precision(
    truth: COCO,
    found: Mapping[int, Detections],
    kind: Literal["segm", "bbox"],
    category_ids: Mapping[str, int],
) -> CocoScores:
    """Score detections, masks or boxes.

    Args:
        truth: The annotations.
        found: Image id -> what was found there; of other labels than the categories nothing
            counts.
        kind: ``segm`` for masks, ``bbox`` for boxes.
        category_ids: The categories to judge, by name, and the order of the answer's classes.
    """
    results = [
        result
        for image_id, detections in found.items()
        for result in _results(detections, image_id, kind, category_ids)
    ]
    evaluation = COCOeval_faster(truth, truth.loadRes(results), kind)
    evaluation.params.catIds = list(category_ids.values())
    evaluation.evaluate()
    evaluation.accumulate()

    precision = np.asarray(evaluation.eval["precision"])  # (T, R, K, A, M)
    recall = np.asarray(evaluation.eval["recall"])  # (T, K, A, M)
    column = {category: k for k, category in enumerate(evaluation.params.catIds)}
    columns = {name: column[category] for name, category in category_ids.items()}
    return CocoScores(
        overall=_average(precision, recall),
        per_class={n: _average(precision[:, :, [k]], recall[:, [k]]) for n, k in columns.items()},
        curves={n: tuple(precision[_IOU_50, :, k, 0, -1].tolist()) for n, k in columns.items()},
    )


def _results(
    detections: Detections,
    image_id: int,
    kind: Literal["segm", "bbox"],
    category_ids: Mapping[str, int],
) -> Iterator[dict[str, Any]]:
    """In COCO's format of results, which knows annotated categories alone."""
    for n, label in enumerate(detections.labels):
        if label in category_ids:
            x1, y1, x2, y2 = detections.boxes[n].tolist()
            shape = (
                {"segmentation": detections.masks[n]}
                if kind == "segm"
                else {"bbox": [x1, y1, x2 - x1, y2 - y1]}
            )
            yield {
                "image_id": image_id,
                "category_id": category_ids[label],
                "score": float(detections.scores[n]),
            } | shape


def _average(
    precision: npt.NDArray[np.float64], recall: npt.NDArray[np.float64]
) -> AveragePrecision:
    """Means over what was measured, at 100 detections an image, the last limit, unless named."""
    return AveragePrecision(
        ap=_mean(precision[:, :, :, 0, -1]),
        ap50=_mean(precision[_IOU_50, :, :, 0, -1]),
        ap75=_mean(precision[_IOU_75, :, :, 0, -1]),
        ap_small=_mean(precision[:, :, :, 1, -1]),
        ap_medium=_mean(precision[:, :, :, 2, -1]),
        ap_large=_mean(precision[:, :, :, 3, -1]),
        ar1=_mean(recall[:, :, 0, 0]),
        ar10=_mean(recall[:, :, 0, 1]),
        ar100=_mean(recall[:, :, 0, -1]),
        ar_small=_mean(recall[:, :, 1, -1]),
        ar_medium=_mean(recall[:, :, 2, -1]),
        ar_large=_mean(recall[:, :, 3, -1]),
    )


def _mean(values: npt.NDArray[np.float64]) -> float:
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0
