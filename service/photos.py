"""Pictures to put a server under load with."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"}


def read_photos(folder: Path) -> list[bytes]:
    """Every picture of a folder, by name.

    Raises:
        ValueError: There is none, or one cannot be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
        photos = [path.read_bytes() for path in files]
    except OSError as error:
        raise ValueError(f"cannot read {error.filename} ({error.strerror})") from error
    if not photos:
        raise ValueError(f"{folder}: no pictures in it")
    return photos


def draw_photos(count: int = 8, *, seed: int = 0) -> list[bytes]:
    """JPEGs of 640x480 pixels with some shapes on a soft background, about 100 kB each."""
    return [_draw_photo(np.random.default_rng((seed, index))) for index in range(count)]


def _draw_photo(random_source: np.random.Generator) -> bytes:
    soft = Image.fromarray(random_source.integers(0, 256, (12, 16, 3), np.uint8))
    photo = soft.resize((640, 480), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(photo)
    for _ in range(6):
        x, y, width, height, *colour = random_source.integers(0, 256, 7).tolist()
        box = (2 * x, 1.5 * y, 2 * x + width / 2 + 10, 1.5 * y + height / 2 + 10)
        draw.ellipse(box, fill=tuple(colour))
    grain = random_source.normal(0, 6, (480, 640, 1))
    pixels = np.clip(np.asarray(photo) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
