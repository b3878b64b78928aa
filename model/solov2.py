"""SOLOv2: backbone, pyramid, head and mask feature composed."""

from torch import Tensor, nn

from model.backbone import MobileNetV2Backbone, ResNetBackbone, build_backbone
from model.config import SOLOv2Config
from model.fpn import FPN
from model.head import SOLOv2Head
from model.mask_feature import MaskFeature
from model.structures import SOLOv2Output


class SOLOv2(nn.Module):
    """The network alone: no thresholds, no NMS, no loss."""

    def __init__(
        self,
        *,
        backbone: ResNetBackbone | MobileNetV2Backbone,
        fpn: FPN,
        head: SOLOv2Head,
        mask_feature: MaskFeature,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.head = head
        self.mask_feature = mask_feature

    def forward(self, images: Tensor) -> SOLOv2Output:
        """(B, 3, H, W) normalised RGB, sides multiples of 32 -> raw predictions."""
        pyramid = self.fpn(self.backbone(images))
        # Its masks are summed and cropped one by one, which takes several times as long where their
        # pixels lie apart, as they do with channels last.
        mask_feature = self.mask_feature(pyramid).contiguous()
        categories, kernels = self.head(pyramid)
        return SOLOv2Output(categories, kernels, mask_feature)


def build_solov2(config: SOLOv2Config) -> SOLOv2:
    """A freshly initialised network; the only place that turns numbers into modules."""
    backbone = build_backbone(config.backbone, deformable=config.deformable_backbone)
    return SOLOv2(
        backbone=backbone,
        fpn=FPN(backbone.channels, config.fpn_channels),
        head=SOLOv2Head(
            in_channels=config.fpn_channels,
            channels=config.head_channels,
            depth=config.head_depth,
            num_classes=config.num_classes,
            mask_channels=config.mask_channels,
            num_grids=config.num_grids,
            norm_groups=config.norm_groups,
            deformable=config.deformable_tower,
        ),
        mask_feature=MaskFeature(
            in_channels=config.fpn_channels,
            hidden_channels=config.mask_hidden_channels,
            out_channels=config.mask_channels,
            norm_groups=config.norm_groups,
            deformable=config.deformable_mask_feature,
        ),
    )
