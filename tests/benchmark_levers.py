"""What each change to the plain network brings on a CPU, and what it changes in the results.

Steps build on one another. With a folder of pictures and COCO annotations of what
the shipped model finds, mask AP is measured after each step as well.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from pictures import astronaut

from model.benchmark import random_checkpoint
from model.checkpoint import Checkpoint, find_weights, load_checkpoint
from model.config import VARIANTS
from model.evaluate import evaluate_coco
from model.fold import fold_batch_norms
from model.memory import freed_memory_handed_back
from model.predictor import Predictor
from model.structures import ImageBatch

WEIGHTS = Path("weights")
ROUND = (0, 1, 2, 3, 4, 3, 2, 1, 0)
Step = tuple[str, Predictor, Callable[[], AbstractContextManager[None]]]


def steps(checkpoint: Checkpoint) -> Iterator[Step]:
    def exact() -> Predictor:
        return Predictor.from_checkpoint(checkpoint, "cpu", "fp32", exact=True)

    yield "as MMDetection", exact(), freed_memory_handed_back
    yield "+ freed memory kept", exact(), nullcontext
    folded = exact()
    fold_batch_norms(folded.network)
    yield "+ batch norms folded", folded, nullcontext
    last = exact()
    fold_batch_norms(last.network)
    last._layout = torch.channels_last
    last.network.to(memory_format=torch.channels_last)
    yield "+ channels last", last, nullcontext
    winograd = Predictor.from_checkpoint(checkpoint, "cpu", "fp32")
    yield "+ Winograd, the grids together", winograd, nullcontext


def milliseconds(step: Step, batch: ImageBatch, repeats: int) -> float:
    """Of the network, the median, two runs to warm up."""
    _, predictor, memory = step
    taken = []
    with memory():
        for _ in range(2 + repeats):
            start = time.perf_counter()
            predictor.forward(batch)
            taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", help="an official network with random weights")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--annotations", type=Path)
    asked = parser.parse_args()

    if asked.variant is None:
        checkpoint = load_checkpoint(find_weights(WEIGHTS))
    else:
        checkpoint = random_checkpoint(VARIANTS[asked.variant])
    measured = list(steps(checkpoint))
    batch = measured[0][1].prepare([astronaut()])
    # There and back, so that a machine that slows down is no lever.
    rounds = [(n, milliseconds(measured[n], batch, asked.repeats)) for n in ROUND]
    times = [min(took for step, took in rounds if step == n) for n in range(len(measured))]
    for (name, predictor, _), took in zip(measured, times, strict=True):
        row = f"| {name} | {took:.0f} | {times[0] / took:.2f} |"
        if asked.images is not None:
            names = predictor.class_names
            found = evaluate_coco(predictor.predict, names, asked.images, asked.annotations)
            row += f" {found.mask.ap:.4f} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
