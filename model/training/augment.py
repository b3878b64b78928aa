"""Random changes of training pictures, and their way into a batch.

All randomness comes from torch's global generator, which the caller seeds for each picture: a
picture's changes are then a function of the seed, whichever process draws them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF

from model.config import PreprocessConfig, SOLOv2Config
from model.preprocess import STRIDE, fit_size
from model.training.config import AugmentConfig
from model.training.dataset import Sample
from model.training.targets import Targets, assign_targets, merge_targets


class Augment:
    """Blank, crop, resize, flip and recolour one sample."""

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config
        self._flip = v2.RandomHorizontalFlip(config.flip)
        self._recolour = v2.RandomApply(
            [v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.4, hue=0.03)],
            p=config.colour,
        )

    def __call__(self, sample: Sample, short_side: int, long_side: int) -> Sample:
        """Change ``sample``; its resized image fits the two sides, in pixels."""
        if _happens(self.config.blank):
            sample = blank_sample(sample)
        elif _happens(self.config.crop):
            sample = crop(sample, self.config.crop_scale, self.config.crop_visible)
        sample = resize(sample, short_side, long_side)
        image, masks = self._flip(sample.image, sample.masks)
        return _without_vanished(replace(sample, image=self._recolour(image), masks=masks))


def crop(sample: Sample, smallest: float, visible: float) -> Sample:
    """A random window of the same aspect ratio, its sides ``smallest`` to 1 of the picture's.

    Objects of which less than ``visible`` of the area is left are dropped.
    """
    height, width = sample.image.shape[-2:]
    scale = smallest + (1 - smallest) * torch.rand(()).item()
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    top = int(torch.randint(height - h + 1, ()))
    left = int(torch.randint(width - w + 1, ()))
    masks = TF.crop(sample.masks, top, left, h, w)
    kept = masks.sum((1, 2)) >= visible * sample.masks.sum((1, 2))
    return Sample(
        TF.crop(sample.image, top, left, h, w),
        tv_tensors.Mask(masks[kept]),
        sample.labels[kept],
    )


def resize(sample: Sample, short_side: int, long_side: int) -> Sample:
    """Keep-ratio resize to the size that preprocessing would choose within these sides."""
    height, width = sample.image.shape[-2:]
    limits = PreprocessConfig(short_side=short_side, long_side=long_side)
    size = list(fit_size(height, width, limits))
    return replace(
        sample,
        # Not antialiased, because the resize before inference is not either.
        image=TF.resize(sample.image, size, antialias=False),
        # Dispatching on the type of ``masks`` would pick the rounding that moves them by up to
        # a pixel against the image.
        masks=tv_tensors.Mask(
            TF.resize_image(sample.masks.as_subclass(Tensor), size, InterpolationMode.NEAREST_EXACT)
        ),
    )


def blank_sample(sample: Sample) -> Sample:
    """A picture of the same size with one colour, or a gradient of two, and no objects."""
    height, width = sample.image.shape[-2:]
    first, second = torch.randint(0, 256, (2, 3, 1, 1)).float()
    if _happens(0.5):
        second = first
    towards = torch.rand(2) - 0.5
    slope = (
        torch.linspace(-1, 1, height)[:, None] * towards[0]
        + torch.linspace(-1, 1, width) * towards[1]
    )
    pixels = (first + (second - first) * (slope + 1) / 2).byte()
    return Sample(tv_tensors.Image(pixels), tv_tensors.Mask(sample.masks[:0]), sample.labels[:0])


def _without_vanished(sample: Sample) -> Sample:
    kept = sample.masks.flatten(1).any(1)
    return replace(sample, masks=tv_tensors.Mask(sample.masks[kept]), labels=sample.labels[kept])


def _happens(probability: float) -> bool:
    return torch.rand(()).item() < probability


@dataclass(frozen=True, slots=True)
class Batch:
    """Network input and what should come out."""

    images: Tensor  # (B, 3, H, W) float32, normalised RGB; padding is 0
    targets: Targets

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.images.to(device, non_blocking=True), self.targets.to(device))

    def pin_memory(self) -> "Batch":
        return Batch(self.images.pin_memory(), self.targets.pin_memory())


class Collate:
    """Samples of any sizes -> a batch on the smallest canvas that holds them all.

    Sharing a canvas changes what the network sees of the smaller pictures; batches of alike
    pictures keep that, and the wasted work, small.
    """

    def __init__(self, config: SOLOv2Config) -> None:
        self._config = config
        self._mean = torch.tensor(config.preprocess.mean)[:, None, None]
        self._std = torch.tensor(config.preprocess.std)[:, None, None]

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        sizes = torch.tensor([sample.image.shape[-2:] for sample in samples])
        height, width = ((sizes.amax(0) + STRIDE - 1) // STRIDE * STRIDE).tolist()
        pixels = [(s.image.as_subclass(Tensor) - self._mean) / self._std for s in samples]
        return Batch(
            torch.stack([_pad(p, height, width) for p in pixels]),
            merge_targets([self._targets(sample, height, width) for sample in samples]),
        )

    def _targets(self, sample: Sample, height: int, width: int) -> Targets:
        masks = _pad(sample.masks.as_subclass(Tensor), height, width)
        return assign_targets(
            masks,
            mask_boxes(masks),
            sample.labels,
            num_grids=self._config.num_grids,
            scale_ranges=self._config.scale_ranges,
            num_classes=self._config.num_classes,
        )


def _pad(pixels: Tensor, height: int, width: int) -> Tensor:
    return F.pad(pixels, (0, width - pixels.shape[-1], 0, height - pixels.shape[-2]))


def mask_boxes(masks: Tensor) -> Tensor:
    """(N, H, W) bool -> (N, 4) float32 half-open xyxy; an empty mask's box has no area."""
    sides = []
    for occupied in (masks.any(1), masks.any(2)):  # columns, rows
        index = torch.arange(occupied.shape[1])
        last = torch.where(occupied, index + 1, 0).amax(1)
        first = torch.where(occupied, index, len(index)).amin(1).minimum(last)
        sides.append((first, last))
    (x1, x2), (y1, y2) = sides
    return torch.stack([x1, y1, x2, y2], dim=1).float()
