"""COCO's ``instances_*.json``."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as rle

from model.annotations.annotated import (
    AnnotatedImage,
    AnnotatedObject,
    AnnotationSet,
    Problem,
)
from model.annotations.masks import encode_mask, run_lengths


def read_coco(path: Path, images_dir: Path | None = None) -> AnnotationSet:
    """Polygons, both forms of run lengths, and crowd regions.

    Args:
        path: The JSON file.
        images_dir: Folder that ``file_name`` is relative to; the file's own unless given.

    Raises:
        ValueError: It is no COCO annotation file.
        OSError: It cannot be read.
    """
    try:
        images, annotations, categories = _parts(path)
        folder = path.parent if images_dir is None else images_dir
        return _read(images, annotations, categories, folder)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no COCO annotation file ({error})") from error


def _read(
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    folder: Path,
) -> AnnotationSet:
    names, problems = _category_names(categories)
    objects: dict[Any, list[AnnotatedObject]] = defaultdict(list)
    known = {image.get("id") for image in images}
    seen: set[Any] = set()
    for n, annotation in enumerate(annotations, start=1):
        place = f"annotation {annotation.get('id', f'number {n}')}"
        if annotation.get("image_id") not in known:
            problems.append(
                Problem(place, f"is for image {annotation.get('image_id')}, which is not listed")
            )
        elif annotation.get("category_id") not in names:
            problems.append(
                Problem(
                    place, f"is of category {annotation.get('category_id')}, which is not listed"
                )
            )
        else:
            if "id" in annotation and annotation["id"] in seen:
                problems.append(Problem(place, "its id is used more than once", fatal=False))
            seen.add(annotation.get("id"))
            objects[annotation["image_id"]].append(_object(annotation, names, place))
    pictures: dict[Any, AnnotatedImage] = {}
    for n, image in enumerate(images, start=1):
        place = str(image.get("file_name", f"image number {n}"))
        if fault := _image_fault(image):
            problems.append(Problem(place, fault))
        elif image["id"] in pictures:
            problems.append(Problem(place, f"its id {image['id']} is used more than once"))
        else:
            pictures[image["id"]] = AnnotatedImage(
                folder / image["file_name"],
                image["height"],
                image["width"],
                tuple(objects[image["id"]]),
                place,
            )
    return AnnotationSet(tuple(names.values()), tuple(pictures.values()), tuple(problems))


def _parts(path: Path) -> list[list[dict[str, Any]]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    parts = [content[part] for part in ("images", "annotations", "categories")]
    if not all(isinstance(p, list) and all(isinstance(x, dict) for x in p) for p in parts):
        raise ValueError("its parts are no lists of objects")
    return parts


def _category_names(
    categories: Iterable[Mapping[str, Any]],
) -> tuple[dict[Any, str], list[Problem]]:
    names: dict[Any, str] = {}
    problems = []
    for n, category in enumerate(categories, start=1):
        number, name = category.get("id"), category.get("name")
        if number is None or not isinstance(name, str) or not name:
            problems.append(Problem(f"category number {n}", "has no id or no name"))
        elif number in names or name in names.values():
            problems.append(Problem(f"category {name}", "its id or name is used more than once"))
        else:
            names[number] = name
    return names, problems


def _object(annotation: Mapping[str, Any], names: Mapping[Any, str], place: str) -> AnnotatedObject:
    area, box = annotation.get("area"), annotation.get("bbox")
    return AnnotatedObject(
        label=names[annotation["category_id"]],
        segmentation=annotation.get("segmentation", []),
        place=place,
        crowd=bool(annotation.get("iscrowd", 0)),
        area=area if isinstance(area, int | float) else None,
        box=tuple(box) if isinstance(box, list) and len(box) == 4 else None,
    )


def _image_fault(image: Mapping[str, Any]) -> str | None:
    if not isinstance(image.get("file_name"), str) or image.get("id") is None:
        return "an image needs id and file_name"
    for side in ("height", "width"):
        value = image.get(side)
        if not isinstance(value, int) or value < 1:
            return f"its {side} is {value!r}, not a number of pixels"
    return None


def write_coco(
    path: Path, images: Iterable[tuple[AnnotatedImage, Path]], class_names: Sequence[str]
) -> None:
    """Write pictures and where they lie; a file name is relative to the JSON file's folder.

    Objects of other classes are left out.
    """
    ids = {name: number for number, name in enumerate(class_names, start=1)}
    listed, annotations = [], []
    for number, (image, where) in enumerate(images, start=1):
        listed.append(
            {
                "id": number,
                "file_name": os.path.relpath(where.resolve(), path.parent.resolve()),
                "height": image.height,
                "width": image.width,
            }
        )
        annotations += [
            {"image_id": number, "category_id": ids[o.label], **_measured(o, image)}
            for o in image.objects
            if o.label in ids
        ]
    content = {
        "images": listed,
        "annotations": [{"id": n, **a} for n, a in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    path.write_text(json.dumps(content), encoding="utf-8")


def _measured(item: AnnotatedObject, image: AnnotatedImage) -> dict[str, Any]:
    lengths = run_lengths(item.segmentation, image.height, image.width)
    segmentation = item.segmentation
    if item.crowd and not isinstance(segmentation, Mapping):
        segmentation = encode_mask(rle.decode(lengths))  # COCO's crowds are run lengths
    return {
        "segmentation": segmentation,
        "iscrowd": int(item.crowd),
        "area": float(rle.area(lengths)) if item.area is None else item.area,
        "bbox": rle.toBbox(lengths).tolist() if item.box is None else list(item.box),
    }
