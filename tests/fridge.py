"""Drawings of what stands in a fridge, in the layout of Microsoft's fridge objects data set."""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from PIL import Image

CLASSES = ("can", "carton", "milk_bottle")

HEIGHT, WIDTH = 192, 256

Canvas = np.ndarray  # (HEIGHT, WIDTH, 3) uint8 RGB
Mask = np.ndarray  # (HEIGHT, WIDTH) uint8, 0 or 1


def draw_fridge(folder: Path, count: int, seed: int) -> None:
    """Write ``count`` pictures of one to three objects with their XML and masks."""
    rng = np.random.default_rng(seed)
    for part in ("images", "annotations", "segmentation-masks"):
        (folder / part).mkdir(parents=True)
    for number in range(1, count + 1):
        picture, numbers, labels = _picture(rng)
        Image.fromarray(picture).save(folder / "images" / f"{number}.jpg", quality=92)
        Image.fromarray(numbers).save(folder / "segmentation-masks" / f"{number}.png")
        xml = _xml(f"{number}.jpg", labels)
        ElementTree.ElementTree(xml).write(folder / "annotations" / f"{number}.xml")


def _picture(rng: np.random.Generator) -> tuple[Canvas, Mask, list[str]]:
    picture = _shelf(rng)
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels = []
    slots = rng.permutation(3)[: rng.integers(1, 4)]  # thirds of the shelf, so that none overlap
    for number, slot in enumerate(slots, start=1):
        label = CLASSES[rng.integers(len(CLASSES))]
        height = int(rng.integers(70, 130))
        x = int((slot + 0.5) * WIDTH / 3 + rng.integers(-8, 9))
        bottom = int(rng.integers(HEIGHT - 45, HEIGHT - 10))
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        DRAW[label](picture, mask, x, bottom, height, rng)
        numbers[mask > 0] = number
        labels.append(label)
    noise = rng.normal(0, 4, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), numbers, labels


def _shelf(rng: np.random.Generator) -> Canvas:
    """A wall that grows darker to one side, and the board that things stand on."""
    wall = rng.integers(150, 235, 3)
    shade = np.linspace(1, rng.uniform(0.7, 1), WIDTH)[None, :, None]
    picture = np.broadcast_to(wall * shade, (HEIGHT, WIDTH, 3)).astype(np.uint8).copy()
    picture[HEIGHT - 50 :] = rng.integers(60, 140, 3)
    return picture


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def _can(
    picture: Canvas, mask: Mask, x: int, bottom: int, height: int, rng: np.random.Generator
) -> None:
    """A cylinder with a metal lid."""
    height = round(height * 0.75)
    half = round(height * 0.28)
    top, lid = bottom - height, max(3, half // 3)
    for image, colour in ((picture, _colour(rng)), (mask, 1)):
        cv2.rectangle(image, (x - half, top), (x + half, bottom), colour, -1)
        cv2.ellipse(image, (x, bottom), (half, lid), 0, 0, 360, colour, -1)
        cv2.ellipse(image, (x, top), (half, lid), 0, 0, 360, colour, -1)
    cv2.ellipse(picture, (x, top), (half, lid), 0, 0, 360, (200, 200, 205), -1)
    cv2.ellipse(picture, (x, top), (half, lid), 0, 0, 360, (120, 120, 125), 1)


def _carton(
    picture: Canvas, mask: Mask, x: int, bottom: int, height: int, rng: np.random.Generator
) -> None:
    """A box with a gable and a label."""
    half = round(height * 0.26)
    shoulder, top = bottom - round(height * 0.75), bottom - height
    outline = np.array(
        [
            (x - half, bottom),
            (x - half, shoulder),
            (x - half // 2, top),
            (x + half // 2, top),
            (x + half, shoulder),
            (x + half, bottom),
        ]
    )
    for image, colour in ((picture, _colour(rng)), (mask, 1)):
        cv2.fillPoly(image, [outline], colour)
    cv2.line(picture, (x - half, shoulder), (x + half, shoulder), (40, 40, 40), 2)
    middle = (shoulder + bottom) // 2
    cv2.rectangle(
        picture, (x - half // 2, middle - half // 2), (x + half // 2, middle), _colour(rng), -1
    )


def _bottle(
    picture: Canvas, mask: Mask, x: int, bottom: int, height: int, rng: np.random.Generator
) -> None:
    """A round body, a neck and a cap."""
    half, neck = round(height * 0.21), round(height * 0.08)
    shoulder, top = bottom - round(height * 0.6), bottom - height
    for image, colour in ((picture, _colour(rng)), (mask, 1)):
        cv2.rectangle(image, (x - half, shoulder), (x + half, bottom), colour, -1)
        cv2.ellipse(image, (x, shoulder), (half, half), 0, 180, 360, colour, -1)
        cv2.rectangle(image, (x - neck, top), (x + neck, shoulder), colour, -1)
    cap = (x - neck - 2, top), (x + neck + 2, top + neck)
    cv2.rectangle(picture, *cap, _colour(rng), -1)
    cv2.rectangle(mask, *cap, 1, -1)


DRAW: dict[str, Callable[..., None]] = {"can": _can, "carton": _carton, "milk_bottle": _bottle}


def _xml(name: str, labels: list[str]) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = name
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", WIDTH), ("height", HEIGHT), ("depth", 3)):
        ElementTree.SubElement(size, tag).text = str(value)
    for label in labels:
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = label
        ElementTree.SubElement(item, "difficult").text = "0"
    return root
