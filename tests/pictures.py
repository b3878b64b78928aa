"""The photos that tests score."""

from pathlib import Path

import cv2
import numpy as np

PHOTOS = Path(__file__).parent / "photos"
ASTRONAUT = PHOTOS / "astronaut.jpg"
CHELSEA = PHOTOS / "chelsea.jpg"


def astronaut() -> np.ndarray:
    """(512, 512, 3) uint8 RGB."""
    return cv2.imread(str(ASTRONAUT))[:, :, ::-1]
