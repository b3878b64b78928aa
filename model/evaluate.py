"""How well what was found in pictures agrees with COCO annotations of them.

COCO's average precision and recall, and the metrics of Azure Machine Learning's evaluation.
Needs the ``train`` extra. Boxes are scored too although SOLOv2 predicts none: they are the
boxes of the masks.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faster_coco_eval import COCO

from model.average_precision import AveragePrecision, average_precision
from model.decode import read_image
from model.detections import Detections
from model.structures import Instances, RGBImage
from model.voc import Found, Truth, VocReport, voc_metrics

Predict = Callable[[Sequence[RGBImage]], list[Instances]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Picture:
    """A file to look at; ``height`` and ``width`` are those it is annotated with, in pixels."""

    path: Path
    height: int
    width: int


Detect = Callable[[Sequence[Picture]], Sequence[Detections]]


@dataclass(frozen=True, slots=True)
class ClassReport:
    """One class; ``curve`` is its masks' precision at IoU 0.5 at recalls 0, 0.01 ... 1."""

    mask: AveragePrecision
    box: AveragePrecision
    curve: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CocoReport:
    """How well the masks, and the boxes around them, agree with the annotations."""

    mask: AveragePrecision
    box: AveragePrecision
    per_class: dict[str, ClassReport]
    voc: VocReport
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
    """Score a model on a data set in COCO's format.

    Categories are matched by name; those the model does not know are left out.

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

    def detect(pictures: Sequence[Picture]) -> list[Detections]:
        found = predict([_read(picture, apply_exif=apply_exif) for picture in pictures])
        return [Detections.from_instances(instances, class_names) for instances in found]

    return evaluate_detections(
        detect,
        images_dir,
        annotations,
        class_names=class_names,
        batch_size=batch_size,
        limit=limit,
        progress=progress,
    )


def evaluate_detections(
    detect: Detect,
    images_dir: Path,
    annotations: Path,
    *,
    class_names: Sequence[str] | None = None,
    batch_size: int = 1,
    limit: int | None = None,
    progress: Progress | None = None,
) -> CocoReport:
    """Score whatever finds objects in picture files, as ``evaluate_coco`` does.

    Args:
        detect: Takes pictures, answers one ``Detections`` for each.
        images_dir: Folder that the annotations' ``file_name`` is relative to.
        annotations: COCO ``instances_*.json``.
        class_names: The classes to judge. Without them every category counts, whether it is
            ever found or not, and to Azure's precision so do labels that are no category.
        batch_size: Images in one call of ``detect``.
        limit: Use only the first so many images, as pictures and as ground truth.
        progress: Called with (images done, images in all) after each batch.

    Raises:
        ValueError: A class is missing from the categories, or there is no image to score.
    """
    started = time.perf_counter()
    dataset = _read_dataset(annotations)
    category_ids = _category_ids(dataset, class_names)
    truth = _ground_truth(dataset, limit)
    images = truth.dataset["images"]
    if not images:
        raise ValueError(f"{annotations} leaves no image to evaluate on")

    pictures = [
        Picture(images_dir / image["file_name"], image["height"], image["width"])
        for image in images
    ]
    found = dict(
        zip(
            (image["id"] for image in images),
            _detections(detect, pictures, batch_size, progress),
            strict=True,
        )
    )
    mask = average_precision(truth, found, "segm", category_ids)
    box = average_precision(truth, found, "bbox", category_ids)
    return CocoReport(
        mask=mask.overall,
        box=box.overall,
        per_class={
            name: ClassReport(mask.per_class[name], box.per_class[name], mask.curves[name])
            for name in category_ids
        },
        voc=_voc_report(truth, found, category_ids, others=class_names is None),
        images=len(images),
        seconds=time.perf_counter() - started,
    )


def _read_dataset(annotations: Path) -> dict[str, Any]:
    try:
        dataset = json.loads(annotations.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{annotations}: not JSON ({error})") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(dataset, dict) or not all(isinstance(dataset.get(p), list) for p in parts):
        raise ValueError(f"{annotations}: not in COCO's format, which has lists {', '.join(parts)}")
    return dataset


def _category_ids(dataset: Mapping[str, Any], class_names: Sequence[str] | None) -> dict[str, int]:
    """The category id of each class, in the order of the classes."""
    by_name: dict[str, int] = {c["name"]: c["id"] for c in dataset["categories"]}
    if class_names is None:
        return by_name
    missing = [name for name in class_names if name not in by_name]
    if missing:
        raise ValueError(
            f"the annotations have no category {', '.join(missing)}; they have {', '.join(by_name)}"
        )
    return {name: by_name[name] for name in class_names}


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


def _detections(
    detect: Detect, pictures: Sequence[Picture], batch_size: int, progress: Progress | None
) -> Iterator[Detections]:
    """Those of every picture, in order."""
    for first in range(0, len(pictures), batch_size):
        batch = pictures[first : first + batch_size]
        for _, found in zip(batch, detect(batch), strict=True):
            yield found
        if progress is not None:
            progress(first + len(batch), len(pictures))


def _read(picture: Picture, *, apply_exif: bool) -> RGBImage:
    pixels = read_image(picture.path, apply_exif=apply_exif)
    height, width = pixels.shape[:2]
    if (height, width) != (picture.height, picture.width):
        raise ValueError(
            f"{picture.path} is {width}x{height} pixels, annotated as "
            f"{picture.width}x{picture.height}"
        )
    return pixels


def _voc_report(
    truth: COCO,
    found: Mapping[int, Detections],
    category_ids: Mapping[str, int],
    *,
    others: bool,
) -> VocReport:
    """With ``others``, labels that are no category of the annotations are judged too."""
    names = {category: name for name, category in category_ids.items()}
    labels = list(names.values())
    if others:
        labels += sorted({label for one in found.values() for label in one.labels} - set(labels))
    return voc_metrics(
        (
            (_truths(truth, image_id, names), _found(detections))
            for image_id, detections in found.items()
        ),
        labels,
    )


def _truths(truth: COCO, image_id: int, names: Mapping[int, str]) -> list[Truth]:
    return [
        Truth(names[one["category_id"]], truth.annToRLE(one), crowd=bool(one.get("iscrowd", 0)))
        for one in truth.imgToAnns[image_id]
        if one["category_id"] in names
    ]


def _found(detections: Detections) -> list[Found]:
    return list(map(Found, detections.labels, detections.masks, detections.scores))
