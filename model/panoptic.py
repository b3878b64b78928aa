"""Instances -> one segment a pixel, the "things" half of panoptic segmentation.

Overlaps are settled as in Panoptic Feature Pyramid Networks (arXiv:1901.02446): the better
instance keeps the pixels, and what is mostly hidden is dropped. Ground, sky and other "stuff"
would need a branch that this network does not have; pixels without an instance are unlabelled.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.structures import Instances, tight_box

UNLABELLED = 0

# Odd, so that each segment of an image gets an id of its own below 256^3; large, so that
# neighbours in number, written as colours, look different.
_ID_STEP = 0x9E3779


@dataclass(frozen=True, slots=True)
class Segment:
    """One instance and the pixels that are left to it."""

    id: int  # in 1 ... 256^3 - 1
    label: int  # index into the class names
    score: float
    area: int  # pixels
    box: tuple[int, int, int, int]  # half-open xyxy around them


@dataclass(frozen=True, slots=True)
class PanopticMap:
    """What each pixel of an image belongs to."""

    ids: npt.NDArray[np.int32]  # (H, W) of segment ids, ``UNLABELLED`` where there is none
    segments: tuple[Segment, ...]  # best first

    def to_rgb(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3): the ids as COCO writes them, id = R + 256 G + 256² B."""
        return np.stack([self.ids >> shift & 255 for shift in (0, 8, 16)], axis=2).astype(np.uint8)


def panoptic_map(
    instances: Instances, *, min_score: float = 0.5, min_visible: float = 0.5
) -> PanopticMap:
    """Give each pixel to the best instance that covers it.

    Args:
        instances: Of one image.
        min_score: Instances below it are left out.
        min_visible: So is one of whose mask better ones leave less than this share.
    """
    ids = np.full((instances.height, instances.width), UNLABELLED, dtype=np.int32)
    segments: list[Segment] = []
    best_first = np.argsort(-instances.scores, kind="stable")
    for n in best_first[instances.scores[best_first] >= min_score].tolist():
        x1, y1, x2, y2 = instances.boxes[n].tolist()
        mask = instances.masks[n]
        region = ids[y1:y2, x1:x2]
        visible = mask & (region == UNLABELLED)
        area = int(np.count_nonzero(visible))
        if area == 0 or area < min_visible * np.count_nonzero(mask):
            continue
        segment_id = (len(segments) + 1) * _ID_STEP % 256**3
        region[visible] = segment_id
        left, top, right, bottom = tight_box(visible)
        segments.append(
            Segment(
                id=segment_id,
                label=int(instances.labels[n]),
                score=float(instances.scores[n]),
                area=area,
                box=(x1 + left, y1 + top, x1 + right, y1 + bottom),
            )
        )
    return PanopticMap(ids, tuple(segments))
