"""Pictures -> network input: resize, normalise, pad to the canvas.

A canvas depends on the size of its own image alone, never on its batch: SOLOv2's grids are laid
over the padded map, so other padding would mean another result.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import PreprocessConfig
from model.structures import Geometry, ImageBatch, RGBImage

STRIDE = 32  # of the coarsest backbone map; canvas sides are multiples of it


def fit_size(height: int, width: int, config: PreprocessConfig) -> tuple[int, int]:
    """(height, width) after the keep-ratio resize (mmcv ``rescale_size``).

    Raises:
        ValueError: The picture is so long and thin that its short side would vanish.
    """
    long, short = max(height, width), min(height, width)
    if short < 1:
        raise ValueError(f"an image of {width}x{height} pixels has no pixels")
    factor = min(config.long_side / long, config.short_side / short)
    resized = int(height * factor + 0.5), int(width * factor + 0.5)
    if min(resized) < 1:
        raise ValueError(
            f"an image of {width}x{height} pixels is too long and thin: "
            f"resized to {resized[1]}x{resized[0]} nothing of it is left"
        )
    return resized


def place(image: RGBImage, config: PreprocessConfig) -> Geometry:
    """Where a picture will stand on which canvas.

    Raises:
        ValueError: The array is no (H, W, 3) uint8 picture, or cannot be resized.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    height, width, _ = image.shape
    resized = fit_size(height, width, config)
    canvas = tuple(math.ceil(side / STRIDE) * STRIDE for side in resized)
    return Geometry((height, width), resized, (canvas[0], canvas[1]))


def preprocess(images: Sequence[RGBImage], config: PreprocessConfig) -> ImageBatch:
    """Resize, normalise and pad pictures that share a canvas.

    Args:
        images: (H, W, 3) uint8 RGB each; sizes may differ, canvases may not.
        config: Mean, standard deviation and size limits.

    Raises:
        ValueError: An array is no RGB picture, cannot be resized, or has another canvas.
    """
    geometries = tuple(place(image, config) for image in images)
    if len({geometry.canvas for geometry in geometries}) != 1:
        raise ValueError(f"one batch needs one canvas, got {[g.canvas for g in geometries]}")
    return normalise(resize(images, geometries), geometries, config)


def resize(images: Sequence[RGBImage], geometries: Sequence[Geometry]) -> list[RGBImage]:
    """OpenCV's bilinear resize on bytes, without antialiasing, as in MMDetection.

    Any other gives other detections.
    """
    return [
        cv2.resize(image, geometry.resized[::-1], interpolation=cv2.INTER_LINEAR).astype(
            np.uint8, copy=False
        )
        for image, geometry in zip(images, geometries, strict=True)
    ]


def normalise(
    resized: Sequence[RGBImage], geometries: tuple[Geometry, ...], config: PreprocessConfig
) -> ImageBatch:
    """Resized pictures, normalised and padded to their one canvas."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.mean, config.std))
    pixels = [
        _pad((torch.from_numpy(image).permute(2, 0, 1).float() - mean) / std, geometry.canvas)
        for image, geometry in zip(resized, geometries, strict=True)
    ]
    return ImageBatch(torch.stack(pixels), geometries)


def _pad(pixels: Tensor, canvas: tuple[int, int]) -> Tensor:
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, canvas[1] - width, 0, canvas[0] - height))
