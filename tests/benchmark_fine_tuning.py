"""How well the shipped model learns a class it has not seen, and in which time.

Balloons are drawn on photos of a folder: alone and in bunches, of any size and colour, a little
transparent, one behind the other. Some photos are learned from, others measured on.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from annotated import uncompressed
from PIL import Image

LEARNED, HELD_OUT = 61, 60  # photos
SMALLEST_SHOWN = 40  # pixels of a balloon behind others; with fewer it is not annotated

Floats = np.ndarray


def draw_balloons(photos: Sequence[Path], folder: Path, seed: int) -> None:
    """Write the photos with balloons on them, and ``instances.json`` in COCO's format."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for number, photo in enumerate(photos, start=1):
        picture, owner = _with_balloons(np.array(Image.open(photo).convert("RGB")), rng)
        name = f"{number}.jpg"
        Image.fromarray(picture).save(folder / name, quality=80)
        height, width = owner.shape
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for balloon in range(1, owner.max() + 1):
            mask = owner == balloon
            if mask.sum() >= SMALLEST_SHOWN:
                annotations.append(_annotation(len(annotations) + 1, number, mask))
    contents = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "balloon"}],
    }
    (folder / "instances.json").write_text(json.dumps(contents))


def _annotation(number: int, image: int, mask: np.ndarray) -> dict[str, object]:
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": list(cv2.boundingRect(mask.astype(np.uint8))),
        "segmentation": uncompressed(mask),
    }


def _with_balloons(photo: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The picture, and for each pixel the number of the balloon that it shows, or 0."""
    picture = photo.astype(np.float32)
    height, width = picture.shape[:2]
    owner = np.zeros((height, width), dtype=np.int32)
    size = np.exp(rng.uniform(np.log(18), np.log(170)))  # across, pixels
    bunch = (rng.uniform(0.15, 0.85) * width, rng.uniform(0.1, 0.7) * height)
    scattered = rng.random() < 0.5
    for number in range(1, min(14, rng.geometric(0.25)) + 1):
        radius = size * np.exp(rng.normal(0, 0.25)) / 2
        place = rng.uniform(0, (width, height)) if scattered else rng.normal(bunch, 1.6 * radius)
        opacity = _blow_up(picture, place, radius, rng)
        owner[opacity > 0.5] = number
    noise = rng.normal(0, rng.uniform(0, 5), picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), owner


def _blow_up(picture: Floats, place: Floats, radius: float, rng: np.random.Generator) -> Floats:
    """Draw one balloon, in place; returns how much of each pixel it covers."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float32)
    angle = rng.normal(0, 0.35)
    x, y = x - place[0], y - place[1]
    across, down = (
        x * np.cos(angle) + y * np.sin(angle),
        (y * np.cos(angle) - x * np.sin(angle)) / radius,
    )
    down = np.where(down > 0, down / 1.25, down)  # longer below, and narrower
    narrow = 1 - 0.18 * np.clip(down, 0, 1) ** 2
    across = across / (radius * rng.uniform(0.82, 1) * narrow)
    distance = np.hypot(across, down)
    covered = np.clip((1 - distance) * radius / 1.2 + 0.5, 0, 1)

    light = rng.normal(0, 1, 2)
    light /= np.hypot(*light)
    light[1] = -abs(light[1])  # from above
    bulge = np.sqrt(np.clip(1 - distance**2, 0, 1))
    shade = 0.62 + 0.45 * bulge + 0.25 * (across * light[0] + down * light[1])
    apart = (across - 0.4 * light[0]) ** 2 + (down - 0.4 * light[1]) ** 2
    gloss = np.exp(-apart / 0.02) * rng.uniform(60, 200)
    colour = np.clip(_colour(rng) * shade[..., None] + gloss[..., None], 0, 255)

    opacity = (covered * rng.uniform(0.8, 1))[..., None]
    picture += (colour - picture) * opacity
    return covered


def _colour(rng: np.random.Generator) -> Floats:
    pale = rng.random() < 0.15
    saturation = rng.integers(0, 60) if pale else rng.integers(120, 255)
    hsv = np.array([[[rng.integers(180), saturation, rng.integers(90, 255)]]], dtype=np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of JPEG files, some hundred pixels wide")
    parser.add_argument("out", type=Path, help="folder for the drawings and the run")
    arguments = parser.parse_args()

    photos = sorted(arguments.photos.glob("*.jpg"))
    if len(photos) < LEARNED + HELD_OUT:
        parser.error(
            f"{LEARNED + HELD_OUT} photos are needed, {arguments.photos} has {len(photos)}"
        )
    chosen = [photos[n] for n in np.random.default_rng(0).permutation(len(photos))]
    learned, held_out = arguments.out / "learned", arguments.out / "held-out"
    draw_balloons(chosen[:LEARNED], learned, seed=1)
    draw_balloons(chosen[LEARNED : LEARNED + HELD_OUT], held_out, seed=2)

    command = [sys.executable, "-m", "service.cli", "train"]
    command += ["--data", str(learned / "instances.json")]
    command += ["--val-data", str(held_out / "instances.json")]
    command += ["--out", str(arguments.out / "run"), "--validate-every", "100"]
    started = time.monotonic()
    subprocess.run(command, check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = (used.ru_utime + used.ru_stime) / 60
    print(f"{minutes:.1f} CPU minutes, {(time.monotonic() - started) / 60:.1f} by the clock")


if __name__ == "__main__":
    main()
