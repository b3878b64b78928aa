"""Reading a data set of any format, and writing it in another."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from model.annotations.annotated import AnnotatedImage, AnnotationSet, Problem
from model.annotations.azure import read_azure, write_azure
from model.annotations.coco import read_coco, write_coco
from model.annotations.voc import ANNOTATIONS, IMAGES, MASKS, read_voc, write_voc

Format = Literal["coco", "azure", "voc"]


def read_annotations(path: Path, images_dir: Path | None = None) -> AnnotationSet:
    """Read COCO JSON, JSON lines, an MLTable folder or a folder with Pascal VOC masks.

    Args:
        path: The file or folder; what it is shows in its name or in what it holds.
        images_dir: Where the pictures lie, if not where the format has them.

    Raises:
        ValueError: It is none of these, or has nothing to read.
        OSError: A file cannot be read.
    """
    if path.suffix == ".json":
        return read_coco(path, images_dir)
    if path.suffix == ".jsonl" or (path / "MLTable").is_file():
        return read_azure(path, images_dir)
    if (path / ANNOTATIONS).is_dir() and (path / MASKS).is_dir():
        return read_voc(path)
    if path.is_dir():
        raise ValueError(
            f"{path} holds neither an MLTable nor folders {ANNOTATIONS}, {MASKS} and {IMAGES}"
        )
    if not path.exists():
        raise ValueError(f"there is no {path}")
    raise ValueError(f"{path} is neither COCO's .json nor Azure's .jsonl, nor a folder")


def write_annotations(
    annotations: AnnotationSet, folder: Path, to: Format, *, base_url: str | None = None
) -> list[Problem]:
    """Write a data set with copies of its pictures into a folder of its own.

    Args:
        annotations: What is written.
        folder: Made for it.
        to: COCO's ``instances.json``, Azure's MLTable, or Pascal VOC masks.
        base_url: Of the pictures, in Azure's lines.

    Returns:
        What the format cannot hold.

    Raises:
        ValueError: There is something in the folder, or two pictures have one name.
        OSError: A picture cannot be copied.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty")
    _check_names(annotations, by_stem=to == "voc")
    (folder / IMAGES).mkdir(parents=True)
    copied = _copied(annotations, folder / IMAGES)
    if to == "coco":
        write_coco(folder / "instances.json", copied, annotations.class_names)
    elif to == "azure":
        write_azure(folder, copied, base_url=base_url)
    else:
        return write_voc(folder, copied)
    return []


def _check_names(annotations: AnnotationSet, *, by_stem: bool) -> None:
    taken: dict[str, Path] = {}
    for image in annotations.images:
        name = image.path.stem if by_stem else image.path.name
        if name in taken:
            raise ValueError(f"{taken[name]} and {image.path} would have the same name")
        taken[name] = image.path


def _copied(annotations: AnnotationSet, folder: Path) -> Iterator[tuple[AnnotatedImage, Path]]:
    for image in annotations.images:
        yield image, Path(shutil.copyfile(image.path, folder / image.path.name))
