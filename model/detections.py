"""What was found in one picture, in the form that it is judged in. Needs the ``train`` extra."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as rle

from model.structures import Instances

RunLengths = Mapping[str, Any]  # a mask as COCO encodes it: size and counts


@dataclass(frozen=True, slots=True)
class Detections:
    """The N objects found in one picture, in any order."""

    labels: Sequence[str]  # N class names
    scores: Sequence[float]
    boxes: npt.NDArray[np.floating | np.integer]  # (N, 4) xyxy in pixels, edges not centres
    masks: Sequence[RunLengths]  # N, each of the size of the picture

    @classmethod
    def from_instances(cls, instances: Instances, class_names: Sequence[str]) -> Self:
        """What a model answers; ``instances.labels`` index into ``class_names``."""
        return cls(
            labels=[class_names[label] for label in instances.labels],
            scores=instances.scores.tolist(),
            boxes=instances.boxes,
            masks=list(_run_lengths(instances)),
        )


def _run_lengths(instances: Instances) -> Iterator[RunLengths]:
    # Run lengths go down the columns, hence the Fortran order; one frame serves all instances.
    frame = np.zeros((instances.height, instances.width), dtype=np.uint8, order="F")
    for (x1, y1, x2, y2), mask in zip(instances.boxes.tolist(), instances.masks, strict=True):
        frame[y1:y2, x1:x2] = mask
        yield rle.encode(frame)
        frame[y1:y2, x1:x2] = 0
