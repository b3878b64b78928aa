"""Feature pyramid network: C2-C5 -> P2-P6 of equal width (mmdet/models/necks/fpn.py)."""

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool


class FPN(nn.Module):
    """Torchvision's pyramid over tuples; P6 is P5 subsampled by two.

    1x1 laterals and 3x3 outputs have biases, the top-down path upsamples to the nearest
    neighbour, and there is no activation.
    """

    def __init__(self, in_channels: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(
            list(in_channels), channels, extra_blocks=LastLevelMaxPool()
        )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """C2-C5 of strides 4 to 32 -> P2-P6, (B, channels, H/s, W/s) each, s up to 64."""
        return tuple(self.pyramid({str(i): m for i, m in enumerate(maps)}).values())
