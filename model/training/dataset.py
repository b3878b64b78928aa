"""Annotated pictures as training samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from model.annotations.annotated import AnnotationSet
from model.annotations.masks import decode_masks
from model.decode import read_image


@dataclass(frozen=True, slots=True)
class Sample:
    """One annotated picture."""

    image: tv_tensors.Image  # (3, H, W) uint8 RGB
    masks: tv_tensors.Mask  # (N, H, W) bool
    labels: Tensor  # (N,) int64, index into the class names


class AnnotatedDataset(Dataset[Sample]):
    """The pictures of a data set with the masks and classes of the objects in them.

    Crowd regions, and objects of other classes, are left out.

    Args:
        annotations: Of whichever format.
        class_names: C names in label order.
        apply_exif: Turn pictures as their EXIF orientation says. Annotations usually refer to
            the stored pixel grid, hence not by default.
    """

    def __init__(
        self,
        annotations: AnnotationSet,
        class_names: Sequence[str],
        *,
        apply_exif: bool = False,
    ) -> None:
        self._images = annotations.images
        self._label_of = {name: label for label, name in enumerate(class_names)}
        self._apply_exif = apply_exif

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        """Decode picture and masks.

        Raises:
            ValueError: The picture is missing, broken, or not of the annotated size.
        """
        image = self._images[index]
        objects = [o for o in image.objects if not o.crowd and o.label in self._label_of]
        pixels = read_image(image.path, apply_exif=self._apply_exif)
        height, width = pixels.shape[:2]
        if (height, width) != (image.height, image.width):
            raise ValueError(
                f"{image.path} is {width}x{height} pixels, annotated as "
                f"{image.width}x{image.height}"
            )
        return Sample(
            tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous()),
            tv_tensors.Mask(decode_masks([o.segmentation for o in objects], height, width)),
            torch.tensor([self._label_of[o.label] for o in objects], dtype=torch.int64),
        )

    def landscape(self) -> list[bool]:
        """For each picture, whether it is at least as wide as it is high."""
        return [image.width >= image.height for image in self._images]
