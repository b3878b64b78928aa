"""COCO average precision of any function that finds instances in pictures.

Needs the ``train`` extra. Boxes are scored too although SOLOv2 predicts none: they are the
boxes of the masks.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle

from model.decode import read_image
from model.structures import Instances, RGBImage

Predict = Callable[[Sequence[RGBImage]], list[Instances]]
Progress = Callable[[int, int], None]

# Axes of COCO's tables: T IoU thresholds 0.50, 0.55 ... 0.95; R recalls; K categories;
# A areas (all, small, medium, large); M limits on detections per image (1, 10, 100).
_IOU_50, _IOU_75 = 0, 5


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """COCO's numbers in [0, 1]; -1 where the ground truth holds nothing to measure.

    ``ap`` averages over IoU 0.50 to 0.95. Small objects are below 32x32 pixels, large ones
    above 96x96. ``ar100`` is the recall with at most 100 detections an image.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar100: float


@dataclass(frozen=True, slots=True)
class ClassReport:
    mask: AveragePrecision
    box: AveragePrecision


@dataclass(frozen=True, slots=True)
class CocoReport:
    """How well the masks, and the boxes around them, agree with the annotations."""

    mask: AveragePrecision
    box: AveragePrecision
    per_class: dict[str, ClassReport]
    images: int
    seconds: float  # decoding, prediction and scoring

    @property
    def mask_ap(self) -> float:
        return self.mask.ap

    @property
    def box_ap(self) -> float:
        return self.box.ap

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts and numbers, ready for JSON."""
        return asdict(self)


def evaluate_coco(
    predict: Predict,
    class_names: Sequence[str],
    images_dir: Path,
    annotations: Path,
    *,
    batch_size: int = 1,
    limit: int | None = None,
    apply_exif: bool = False,
    progress: Progress | None = None,
) -> CocoReport:
    """Score ``predict`` on a data set in COCO's format.

    Categories are matched by name; those the model does not know are left out of the mean.

    Args:
        predict: Takes RGB images, (H, W, 3) uint8 each; answers one ``Instances`` for each.
        class_names: C names; ``Instances.labels`` index into them.
        images_dir: Folder that the annotations' ``file_name`` is relative to.
        annotations: COCO ``instances_*.json``.
        batch_size: Images in one call of ``predict``.
        limit: Use only the first so many images, as pictures and as ground truth.
        apply_exif: Turn pictures as their EXIF orientation says. Annotations usually refer to
            the stored pixel grid, hence not by default.
        progress: Called with (images done, images in all) after each batch.

    Raises:
        ValueError: A class is missing from the categories, there is no image to score, an
            image is missing, cannot be decoded or is not of the annotated size.
    """
    started = time.perf_counter()
    dataset = _read_dataset(annotations)
    category_ids = _category_ids(dataset, class_names)
    truth = _ground_truth(dataset, limit)
    images = truth.dataset["images"]
    if not images:
        raise ValueError(f"{annotations} leaves no image to evaluate on")

    masks: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    read = functools.partial(_read_image, images_dir, apply_exif=apply_exif)
    for image_id, instances in _predictions(predict, images, read, batch_size, progress):
        masks.extend(_mask_results(instances, image_id, category_ids))
        boxes.extend(_box_results(instances, image_id, category_ids))

    mask, mask_per_class = _score(truth, masks, "segm", category_ids)
    box, box_per_class = _score(truth, boxes, "bbox", category_ids)
    per_class = map(ClassReport, mask_per_class, box_per_class)
    return CocoReport(
        mask=mask,
        box=box,
        per_class=dict(zip(class_names, per_class, strict=True)),
        images=len(images),
        seconds=time.perf_counter() - started,
    )


def check_annotations(annotations: Path, class_names: Sequence[str]) -> None:
    """Raise ValueError or OSError if a later ``evaluate_coco`` could not use these annotations."""
    _category_ids(_read_dataset(annotations), class_names)


def _read_dataset(annotations: Path) -> dict[str, Any]:
    try:
        dataset = json.loads(annotations.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{annotations}: not JSON ({error})") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(dataset, dict) or not all(isinstance(dataset.get(p), list) for p in parts):
        raise ValueError(f"{annotations}: not in COCO's format, which has lists {', '.join(parts)}")
    return dataset


def _category_ids(dataset: Mapping[str, Any], class_names: Sequence[str]) -> list[int]:
    """The category id of each class, in the order of the classes."""
    by_name = {category["name"]: category["id"] for category in dataset["categories"]}
    missing = [name for name in class_names if name not in by_name]
    if missing:
        raise ValueError(
            f"the annotations have no category {', '.join(missing)}; they have {', '.join(by_name)}"
        )
    return [by_name[name] for name in class_names]


def _ground_truth(dataset: Mapping[str, Any], limit: int | None) -> COCO:
    """The first ``limit`` images; annotations of others are never looked up."""
    # Numbered afresh: to the matching, an annotation whose id is 0 is one nobody found.
    numbered = [
        annotation | {"id": number}
        for number, annotation in enumerate(dataset["annotations"], start=1)
    ]
    return COCO(
        {
            "images": dataset["images"][:limit],
            "annotations": numbered,
            "categories": dataset["categories"],
        }
    )


def _predictions(
    predict: Predict,
    images: Sequence[Mapping[str, Any]],
    read: Callable[[Mapping[str, Any]], RGBImage],
    batch_size: int,
    progress: Progress | None,
) -> Iterator[tuple[int, Instances]]:
    """Image id and instances of every image, in order."""
    for first in range(0, len(images), batch_size):
        batch = images[first : first + batch_size]
        found = predict([read(image) for image in batch])
        for image, instances in zip(batch, found, strict=True):
            yield image["id"], instances
        if progress is not None:
            progress(first + len(batch), len(images))


def _read_image(images_dir: Path, annotated: Mapping[str, Any], *, apply_exif: bool) -> RGBImage:
    path = images_dir / annotated["file_name"]
    pixels = read_image(path, apply_exif=apply_exif)
    height, width = pixels.shape[:2]
    if (height, width) != (annotated["height"], annotated["width"]):
        raise ValueError(
            f"{path} is {width}x{height} pixels, annotated as "
            f"{annotated['width']}x{annotated['height']}"
        )
    return pixels


def _mask_results(
    instances: Instances, image_id: int, category_ids: list[int]
) -> Iterator[dict[str, Any]]:
    # Run lengths go down the columns, hence the Fortran order; one frame serves all instances.
    frame = np.zeros((instances.height, instances.width), dtype=np.uint8, order="F")
    for n, (x1, y1, x2, y2) in enumerate(instances.boxes.tolist()):
        frame[y1:y2, x1:x2] = instances.masks[n]
        yield {
            "image_id": image_id,
            "category_id": category_ids[instances.labels[n]],
            "segmentation": rle.encode(frame),
            "score": float(instances.scores[n]),
        }
        frame[y1:y2, x1:x2] = 0


def _box_results(
    instances: Instances, image_id: int, category_ids: list[int]
) -> Iterator[dict[str, Any]]:
    for n, (x1, y1, x2, y2) in enumerate(instances.boxes.tolist()):
        yield {
            "image_id": image_id,
            "category_id": category_ids[instances.labels[n]],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(instances.scores[n]),
        }


def _score(
    truth: COCO,
    results: list[dict[str, Any]],
    kind: Literal["segm", "bbox"],
    category_ids: list[int],
) -> tuple[AveragePrecision, list[AveragePrecision]]:
    """Overall, and for each class in the order of ``category_ids``."""
    evaluation = COCOeval_faster(truth, truth.loadRes(results), kind)
    evaluation.params.catIds = category_ids
    evaluation.evaluate()
    evaluation.accumulate()

    precision = np.asarray(evaluation.eval["precision"])  # (T, R, K, A, M)
    recall = np.asarray(evaluation.eval["recall"])  # (T, K, A, M)
    column = {category: k for k, category in enumerate(evaluation.params.catIds)}
    per_class = [
        _average(precision[:, :, [column[category]]], recall[:, [column[category]]])
        for category in category_ids
    ]
    return _average(precision, recall), per_class


def _average(
    precision: npt.NDArray[np.float64], recall: npt.NDArray[np.float64]
) -> AveragePrecision:
    """Means over what was measured, at 100 detections an image, the last limit."""
    return AveragePrecision(
        ap=_mean(precision[:, :, :, 0, -1]),
        ap50=_mean(precision[_IOU_50, :, :, 0, -1]),
        ap75=_mean(precision[_IOU_75, :, :, 0, -1]),
        ap_small=_mean(precision[:, :, :, 1, -1]),
        ap_medium=_mean(precision[:, :, :, 2, -1]),
        ap_large=_mean(precision[:, :, :, 3, -1]),
        ar100=_mean(recall[:, :, 0, -1]),
    )


def _mean(values: npt.NDArray[np.float64]) -> float:
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0
