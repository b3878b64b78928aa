"""Azure Machine Learning's JSON lines for images, alone or in an MLTable folder.

Each line has an ``image_url``, ``image_details`` with its size, and a ``label`` list whose
polygons are fractions of width and height.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from model.annotations.annotated import (
    AnnotatedImage,
    AnnotatedObject,
    AnnotationSet,
    Problem,
)
from model.annotations.masks import rings_of
from model.annotations.pictures import picture_size

LINES = "annotations.jsonl"
_MLTABLE = {
    "paths": [{"file": f"./{LINES}"}],
    "transformations": [
        {
            "read_json_lines": {
                "encoding": "utf8",
                "invalid_lines": "error",
                "include_path_column": False,
            }
        },
        {"convert_column_types": [{"columns": "image_url", "column_type": "stream_info"}]},
    ],
}


def read_azure(path: Path, images_dir: Path | None = None) -> AnnotationSet:
    """JSON lines, or a folder with an ``MLTable`` file that names some.

    Args:
        path: The file or the folder.
        images_dir: Where the pictures lie; the folder of the lines unless given. Of an address
            the longest ending that is there counts: of ``azureml://.../paths/fridge/images/1.jpg``
            that may be ``fridge/images/1.jpg``, ``images/1.jpg`` or ``1.jpg``.

    Raises:
        ValueError: An MLTable names no JSON lines, or there is no line.
        OSError: A file cannot be read.
    """
    images: list[AnnotatedImage] = []
    problems: list[Problem] = []
    for file in _line_files(path):
        folder = file.parent if images_dir is None else images_dir
        for n, text in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            place = f"{file.name} line {n}"
            if not text.strip():
                continue
            try:
                images.append(_image(json.loads(text), folder, place, problems))
            except (ValueError, TypeError, KeyError) as error:
                problems.append(Problem(place, _reason(error)))
    if not images and not problems:
        raise ValueError(f"{path} has no line")
    labels = {item.label for image in images for item in image.objects}
    return AnnotationSet(tuple(sorted(labels)), tuple(images), tuple(problems))


def _line_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    table = path / "MLTable"
    try:
        content = yaml.safe_load(table.read_text(encoding="utf-8"))
        names = [entry["file"] for entry in content["paths"]]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError(f"{table} lists no files under paths") from error
    if not names or not all(isinstance(name, str) and "://" not in name for name in names):
        raise ValueError(f"{table} needs the names of files in its folder, not {names}")
    return [path / name for name in names]


def _image(
    line: Mapping[str, Any], folder: Path, place: str, problems: list[Problem]
) -> AnnotatedImage:
    path = _resolve(line["image_url"], folder)
    width, height = _size(line.get("image_details") or {}, path)
    objects = []
    for n, label in enumerate(line["label"], start=1):
        where = f"{place} ({path.name}), label {n}"
        try:
            objects.append(_object(label, width, height, where))
        except (ValueError, TypeError, KeyError) as error:
            problems.append(Problem(where, _reason(error)))
    return AnnotatedImage(path, height, width, tuple(objects), f"{place} ({path.name})")


def _resolve(url: str, folder: Path) -> Path:
    """Where a picture lies; where it ought to if it is not there."""
    parts = PurePosixPath(unquote(urlsplit(url).path) if "://" in url else url).parts
    parts = tuple(part for part in parts if part not in ("/", ".", ".."))
    if not parts:
        raise ValueError(f"image_url {url!r} names no file")
    if "://" not in url:
        return folder / url
    endings = [folder.joinpath(*parts[n:]) for n in range(len(parts))]
    return next((ending for ending in endings if ending.is_file()), endings[-1])


def _size(details: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """(width, height) as annotated, a number or text like ``400px``, else the picture's own."""
    sides = [details.get("width"), details.get("height")]
    if None in sides:
        return picture_size(path)
    width, height = (int(str(side).removesuffix("px")) for side in sides)
    if min(width, height) < 1:
        raise ValueError(f"image_details say {width}x{height} pixels")
    return width, height


def _object(label: Mapping[str, Any], width: int, height: int, place: str) -> AnnotatedObject:
    rings = [_in_pixels(ring, width, height) for ring in label["polygon"]]
    if not isinstance(label["label"], str) or not label["label"]:
        raise ValueError("its label is no text")
    crowd = int(label.get("isCrowd") or 0)
    return AnnotatedObject(label["label"], rings, place, crowd=bool(crowd))


def _in_pixels(ring: Sequence[float], width: int, height: int) -> list[float]:
    if any(not -0.5 <= value <= 1.5 for value in ring):
        raise ValueError("its polygon is not in fractions of the picture")
    return [value * (height if n % 2 else width) for n, value in enumerate(ring)]


def _reason(error: Exception) -> str:
    return f"has no {error}" if isinstance(error, KeyError) else str(error)


def write_azure(
    folder: Path,
    images: Iterable[tuple[AnnotatedImage, Path]],
    *,
    base_url: str | None = None,
) -> None:
    """Write ``MLTable`` and the JSON lines that it names.

    Args:
        folder: Takes both.
        images: Pictures, and where they lie.
        base_url: Put before the pictures' names; without it they are relative to the folder.
    """
    with (folder / LINES).open("w", encoding="utf-8") as file:
        for image, where in images:
            url = (
                where.relative_to(folder).as_posix()
                if base_url is None
                else f"{base_url.rstrip('/')}/{where.name}"
            )
            file.write(json.dumps(_line(image, url)) + "\n")
    (folder / "MLTable").write_text(yaml.safe_dump(_MLTABLE, sort_keys=False), encoding="utf-8")


def _line(image: AnnotatedImage, url: str) -> dict[str, Any]:
    details = {
        "format": image.path.suffix.removeprefix(".").lower(),
        "width": image.width,
        "height": image.height,
    }
    labels = []
    for item in image.objects:
        rings = rings_of(item.segmentation, image.height, image.width)
        polygon = [
            [value / (image.height if n % 2 else image.width) for n, value in enumerate(ring)]
            for ring in rings
        ]
        labels.append({"label": item.label, "isCrowd": int(item.crowd), "polygon": polygon})
    return {"image_url": url, "image_details": details, "label": labels}
