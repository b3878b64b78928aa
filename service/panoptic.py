"""Photos with their instances -> a data set in COCO's panoptic format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from PIL import Image

from model.panoptic import Segment, panoptic_map
from model.structures import Instances


class PanopticFolder:
    """``NAME.png`` for each photo, and ``panoptic.json`` over them.

    Categories are numbered from 1: the class names in their order, then others as they come.

    Args:
        folder: Made if missing.
        class_names: Those that are known beforehand.
    """

    def __init__(self, folder: Path, class_names: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._category_ids = {name: id_ for id_, name in enumerate(class_names, start=1)}
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(
        self, photo: Path, instances: Instances, names: Sequence[str], *, min_score: float
    ) -> None:
        """Write the map of a photo; labels of its instances index into ``names``."""
        panoptic = panoptic_map(instances, min_score=min_score)
        picture = f"{photo.stem}.png"
        Image.fromarray(panoptic.to_rgb()).save(self._folder / picture)
        image_id = len(self._images) + 1
        size = {"height": instances.height, "width": instances.width}
        self._images.append({"id": image_id, "file_name": photo.name, **size})
        self._annotations.append(
            {
                "image_id": image_id,
                "file_name": picture,
                "segments_info": [
                    _segment_info(segment, self._category_id(names[segment.label]))
                    for segment in panoptic.segments
                ],
            }
        )

    def write_index(self) -> None:
        """Write ``panoptic.json`` about all photos so far."""
        categories = [
            {"id": id_, "name": name, "supercategory": name, "isthing": 1}
            for name, id_ in self._category_ids.items()
        ]
        index = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": categories,
        }
        (self._folder / "panoptic.json").write_bytes(
            orjson.dumps(index, option=orjson.OPT_INDENT_2)
        )

    def _category_id(self, name: str) -> int:
        return self._category_ids.setdefault(name, len(self._category_ids) + 1)


def _segment_info(segment: Segment, category_id: int) -> dict[str, Any]:
    x1, y1, x2, y2 = segment.box
    return {
        "id": segment.id,
        "category_id": category_id,
        "iscrowd": 0,
        "area": segment.area,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": segment.score,
    }
