"""Seconds per photo of each official network at its official scale, as a table for the README.

Weights are random: published ones take the same time to compute, and find other numbers of objects.
The last column is how many times as long MMDetection's way takes.
"""

import cv2
from goldens import OFFICIAL
from pictures import astronaut

from model.benchmark import Benchmark, random_checkpoint
from model.config import VARIANTS
from model.predictor import Predictor


def main() -> None:
    photo = astronaut()[:341]  # 512x341, the shape of most photos
    _, encoded = cv2.imencode(".png", photo[:, :, ::-1])
    for variant in OFFICIAL:
        checkpoint = random_checkpoint(VARIANTS[variant])
        fast, plain = (
            Predictor.from_checkpoint(checkpoint, "cpu", "fp32", exact=exact)
            for exact in (False, True)
        )
        report = Benchmark(fast, plain, encoded.tobytes()).measure(3)
        height, width = report.canvas
        parts = report.fast.parts
        print(
            f"| `{variant}` | {height}x{width} | {parts['network'] / 1000:.2f} "
            f"| {parts['total'] / 1000:.2f} | {report.instances} "
            f"| {report.ratios()['total']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
