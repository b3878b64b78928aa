"""Instances -> the JSON object of one image."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import orjson

from model.polygons import mask_to_rings
from model.structures import Instances

_DECIMALS = 6

Rings = list[npt.NDArray[np.float64]]  # each (P, 2): x, y


def encode_instances(
    instances: Instances, class_names: Sequence[str], *, tolerance_px: float
) -> bytes:
    """``{"boxes": [...]}`` as Azure's clients know it, best instance first.

    Coordinates are fractions of the image's width and height. A box encloses exactly the rings
    sent with it. An instance too small to have a ring is left out.
    """
    boxes = []
    for n in range(len(instances)):
        rings = _normalised_rings(instances, n, tolerance_px)
        if rings:
            boxes.append(
                {
                    "box": _enclosing_box(rings),
                    "label": class_names[instances.labels[n]],
                    "score": float(instances.scores[n]),
                    "polygon": [ring.ravel() for ring in rings],
                }
            )
    return orjson.dumps({"boxes": boxes}, option=orjson.OPT_SERIALIZE_NUMPY)


def _normalised_rings(instances: Instances, n: int, tolerance_px: float) -> Rings:
    """The rings of instance ``n`` in fractions of the image, largest first."""
    origin = instances.boxes[n, :2]
    size = (instances.width, instances.height)
    rings = mask_to_rings(instances.masks[n], tolerance_px=tolerance_px)
    return [np.round((ring + origin) / size, _DECIMALS) for ring in rings]


def _enclosing_box(rings: Rings) -> dict[str, float]:
    points = np.concatenate(rings)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return {"topX": left, "topY": top, "bottomX": right, "bottomY": bottom}
