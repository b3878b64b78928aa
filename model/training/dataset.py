"""A data set in COCO's format: pictures with the masks and classes of the objects in them."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from model.decode import read_image


@dataclass(frozen=True, slots=True)
class Sample:
    """One annotated picture."""

    image: tv_tensors.Image  # (3, H, W) uint8 RGB
    masks: tv_tensors.Mask  # (N, H, W) bool
    labels: Tensor  # (N,) int64, index into the class names


class CocoDataset(Dataset[Sample]):
    """Pictures of a folder and the annotations of a COCO ``instances_*.json``.

    Polygons and both forms of RLE are read. Crowd regions, and objects of categories that are
    not asked for, are left out.

    Args:
        images_dir: Folder that the annotations' ``file_name`` is relative to.
        annotations: The JSON file.
        class_names: C names in label order; all categories in the file's order unless given.
        apply_exif: Turn pictures as their EXIF orientation says. Annotations usually refer to
            the stored pixel grid, hence not by default.

    Raises:
        ValueError: The file is no COCO annotation file or lacks a class.
    """

    def __init__(
        self,
        images_dir: Path,
        annotations: Path,
        *,
        class_names: Sequence[str] | None = None,
        apply_exif: bool = False,
    ) -> None:
        try:
            content = json.loads(annotations.read_text(encoding="utf-8"))
            self._images: list[dict[str, Any]] = content["images"]
            ids = {category["name"]: category["id"] for category in content["categories"]}
            objects: list[dict[str, Any]] = content["annotations"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{annotations} is no COCO annotation file ({error})") from error
        self.class_names = tuple(ids if class_names is None else class_names)
        if missing := [name for name in self.class_names if name not in ids]:
            raise ValueError(f"{annotations} has no category {', '.join(missing)}")

        self._images_dir = images_dir
        self._apply_exif = apply_exif
        self._label_of = {ids[name]: label for label, name in enumerate(self.class_names)}
        self._objects = defaultdict(list)
        for item in objects:
            if not item.get("iscrowd", 0) and item["category_id"] in self._label_of:
                self._objects[item["image_id"]].append(item)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        """Decode picture and masks.

        Raises:
            ValueError: The picture is missing, broken, or not of the annotated size.
        """
        image = self._images[index]
        objects = self._objects[image["id"]]
        pixels = read_image(self._images_dir / image["file_name"], apply_exif=self._apply_exif)
        height, width = pixels.shape[:2]
        if (height, width) != (image["height"], image["width"]):
            raise ValueError(
                f"{image['file_name']} is {width}x{height} pixels, annotated as "
                f"{image['width']}x{image['height']}"
            )
        return Sample(
            tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous()),
            tv_tensors.Mask(decode_masks([o["segmentation"] for o in objects], height, width)),
            torch.tensor([self._label_of[o["category_id"]] for o in objects], dtype=torch.int64),
        )

    def landscape(self) -> list[bool]:
        """For each picture, whether it is at least as wide as it is high."""
        return [image["width"] >= image["height"] for image in self._images]


def decode_masks(
    segmentations: Sequence[Mapping[str, Any] | Sequence[Any]], height: int, width: int
) -> Tensor:
    """COCO's ``segmentation`` of N objects -> (N, height, width) bool."""
    masks = torch.zeros((len(segmentations), height, width), dtype=torch.bool)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        mask.copy_(torch.from_numpy(rle.decode(_run_lengths(segmentation, height, width))))
    return masks


def _run_lengths(
    segmentation: Mapping[str, Any] | Sequence[Any], height: int, width: int
) -> Mapping[str, Any]:
    """Compressed RLE from polygons (a list of rings), uncompressed or compressed RLE."""
    if not isinstance(segmentation, Mapping):
        # pycocotools takes rings of two points for boxes.
        rings = [ring for ring in segmentation if len(ring) >= 6]
        if not rings:
            return rle.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
        return rle.merge(rle.frPyObjects(rings, height, width))
    if isinstance(segmentation["counts"], list):
        return rle.frPyObjects(segmentation, height, width)
    return segmentation
