"""Pascal VOC annotations with instance masks, in the layout of Microsoft's fridge objects.

``images/`` holds the pictures, ``annotations/`` an XML file for each, ``segmentation-masks/`` a
PNG of the same name: 0 is background, and the other values in ascending order are the objects in
the order of the XML. An object that is ``difficult`` is a crowd, as in Azure's own converter.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.annotations.annotated import (
    AnnotatedImage,
    AnnotatedObject,
    AnnotationSet,
    Problem,
)
from model.annotations.masks import decode_masks, encode_mask

IMAGES, ANNOTATIONS, MASKS = "images", "annotations", "segmentation-masks"


def read_voc(folder: Path) -> AnnotationSet:
    """Read all XML files and masks.

    Raises:
        ValueError: There is no XML file.
    """
    images, problems = [], []
    files = sorted((folder / ANNOTATIONS).glob("*.xml"))
    if not files:
        raise ValueError(f"{folder / ANNOTATIONS} has no XML file")
    for file in files:
        try:
            images.append(_image(folder, file))
        except (ValueError, OSError, ElementTree.ParseError) as error:
            problems.append(Problem(file.name, str(error)))
    described = {file.stem for file in files}
    problems += [
        Problem(picture.name, "has no XML file and is left out", fatal=False)
        for picture in sorted((folder / IMAGES).glob("*"))
        if picture.stem not in described
    ]
    labels = {item.label for image in images for item in image.objects}
    return AnnotationSet(tuple(sorted(labels)), tuple(images), tuple(problems))


def _image(folder: Path, file: Path) -> AnnotatedImage:
    root = ElementTree.parse(file).getroot()
    name = root.findtext("filename") or ""
    if not name:
        raise ValueError("names no picture")
    width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    if min(width, height) < 1:
        raise ValueError("tells no size of the picture")
    objects = root.findall("object")
    path = folder / MASKS / f"{file.stem}.png"
    mask = _read_mask(path) if objects or path.exists() else np.zeros((height, width), np.uint8)
    if mask.shape != (height, width):
        raise ValueError(
            f"its mask is of {mask.shape[1]}x{mask.shape[0]} pixels, the picture of "
            f"{width}x{height}"
        )
    values = np.unique(mask[mask > 0])
    if len(values) != len(objects):
        raise ValueError(f"its mask shows {len(values)} objects, {len(objects)} are described")
    return AnnotatedImage(
        folder / IMAGES / Path(name).name,
        height,
        width,
        tuple(
            AnnotatedObject(
                _label(item),
                encode_mask(mask == value),
                f"{file.name}, object {n}",
                crowd=item.findtext("difficult", "0").strip() == "1",
            )
            for n, (item, value) in enumerate(zip(objects, values, strict=True), start=1)
        ),
        file.name,
    )


def _label(item: Any) -> str:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no name")
    return str(name)


def _read_mask(path: Path) -> npt.NDArray[Any]:
    if not path.exists():
        raise ValueError(f"there is no mask {path.name}")
    with Image.open(path) as image:
        if image.mode not in ("L", "P", "I", "I;16", "1"):
            raise ValueError(f"its mask has colours (mode {image.mode}) in place of object numbers")
        return np.asarray(image)


def write_voc(folder: Path, images: Iterable[tuple[AnnotatedImage, Path]]) -> list[Problem]:
    """Write XML files and masks; where objects overlap, the smaller one has the pixels.

    Returns:
        The objects that got no pixel, and hence no place in the data set.
    """
    for part in (ANNOTATIONS, MASKS):
        (folder / part).mkdir(parents=True, exist_ok=True)
    hidden: list[Problem] = []
    for image, where in images:
        mask = _number_mask(image)
        kept = []
        for n, item in enumerate(image.objects, start=1):
            if (mask == n).any():
                kept.append((item, mask == n))
            else:
                hidden.append(Problem(item.place, "has no pixel of its own", fatal=False))
        mode = np.uint8 if len(image.objects) < 256 else np.uint16
        Image.fromarray(mask.astype(mode)).save(folder / MASKS / f"{where.stem}.png")
        tree = ElementTree.ElementTree(_xml(image, where.name, kept))
        ElementTree.indent(tree)
        tree.write(folder / ANNOTATIONS / f"{where.stem}.xml", encoding="unicode")
    return hidden


def _number_mask(image: AnnotatedImage) -> npt.NDArray[np.int64]:
    segmentations = [item.segmentation for item in image.objects]
    masks = decode_masks(segmentations, image.height, image.width).numpy()
    numbers = np.zeros((image.height, image.width), np.int64)
    for n in sorted(range(len(masks)), key=lambda n: -int(masks[n].sum())):
        numbers[masks[n]] = n + 1
    return numbers


def _xml(
    image: AnnotatedImage,
    name: str,
    objects: Iterable[tuple[AnnotatedObject, npt.NDArray[np.bool_]]],
) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _add(root, folder=IMAGES, filename=name)
    _add(_add(root, size=None), width=image.width, height=image.height, depth=3)
    for item, mask in objects:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        element = _add(root, object=None)
        _add(element, name=item.label, difficult=int(item.crowd))
        _add(
            _add(element, bndbox=None),
            xmin=columns[0],
            ymin=rows[0],
            xmax=columns[-1] + 1,
            ymax=rows[-1] + 1,
        )
    return root


def _add(parent: ElementTree.Element, **children: object) -> ElementTree.Element:
    """Append an element with that text for each; returns the last."""
    for tag, text in children.items():
        child = ElementTree.SubElement(parent, tag)
        child.text = None if text is None else str(text)
    return child
