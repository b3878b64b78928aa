"""Which images may share a batch."""

import math

STRIDE = 32  # canvas sides are multiples of it

Canvas = tuple[int, int]  # height, width


def canvas_of(width: int, height: int, *, short_side: int, long_side: int) -> Canvas:
    """The canvas that an image of this size will stand on, as ``model.preprocess`` makes it.

    Computed again here because the HTTP process does not import torch. It is a forecast: the
    worker, which knows how EXIF turns the image, puts no two canvases into one batch.
    """
    factor = min(long_side / max(width, height), short_side / min(width, height))
    rows, columns = (max(1, int(side * factor + 0.5)) for side in (height, width))
    return math.ceil(rows / STRIDE) * STRIDE, math.ceil(columns / STRIDE) * STRIDE
