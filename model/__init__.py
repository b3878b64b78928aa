"""SOLOv2 instance segmentation: pixels in, instances out.

Axes, used in every docstring and comment of this package:
    B images in a batch      N instances in one image     C classes
    H, W input pixels        h, w mask-feature pixels (H/4, W/4)
    S cells along a grid     E channels of the mask feature
"""

from model.predictor import Predictor
from model.structures import Instances

__all__ = ["Instances", "Predictor"]
