"""The real worker around a model that does what the width of a picture says.

Run as a script in the place of ``python -m service.worker``, with -P: the folder beside this file
that is called service is another one.
"""

import os
import signal

import torch

from model import predictor
from model.predictor import Predictor
from model.structures import ImageBatch, Instances

KILLS, RAISES = 41, 43  # pixels
LARGEST_THAT_FITS = 2  # images in a batch
predict_batch = Predictor.predict_batch


def faulty_predict_batch(self: Predictor, batch: ImageBatch) -> list[Instances]:
    widths = [geometry.original[1] for geometry in batch.geometries]
    if KILLS in widths:
        os.kill(os.getpid(), signal.SIGKILL)
    if RAISES in widths:
        raise RuntimeError("an image this model cannot stand")
    if len(widths) > LARGEST_THAT_FITS:
        raise torch.OutOfMemoryError("too many at once")
    return predict_batch(self, batch)


if __name__ == "__main__":
    from service.worker.__main__ import main

    predictor._BATCH_SIZE["cpu"] = 4
    Predictor.predict_batch = faulty_predict_batch
    main()
