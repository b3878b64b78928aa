"""Seconds per photo of each official network at its official scale, as a table for the README.

The weights are the seeded ones of the goldens: published ones take the same time to compute, and
find fewer objects.
"""

import torch
from goldens import GOLDEN, OFFICIAL, load, seeded_network
from pictures import astronaut

from model.benchmark import benchmark_picture
from model.config import VARIANTS, InferenceConfig
from model.predictor import Predictor
from model.preprocess import place


def main() -> None:
    photo = astronaut()[:341]  # 512x341, the shape of most photos
    for variant in OFFICIAL:
        config = VARIANTS[variant]
        predictor = Predictor(
            seeded_network(load(GOLDEN / f"micro_{variant}.npz")),
            config,
            inference=InferenceConfig(),
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        times = benchmark_picture(predictor, photo, repeats=3)
        height, width = place(photo, config.preprocess).canvas
        print(
            f"| `{variant}` | {height}x{width} | {times.stages['network'] / 1000:.2f} "
            f"| {times.total / 1000:.2f} | {times.instances} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
