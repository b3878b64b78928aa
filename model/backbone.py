"""Torchvision networks cut open at strides 4, 8, 16 and 32: the maps C2 to C5."""

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from model.deformable import DeformableConv


class ResNetBackbone(nn.Module):
    """ResNet or ResNeXt, with torchvision's attribute names.

    (B, 3, H, W) -> C2 to C5, (B, channels[i], H / 2**(i + 2), W / 2**(i + 2)) each.
    A bottleneck's stride sits in its 3x3 convolution (``style="pytorch"`` in MMDetection).
    ``deformable`` turns that convolution into a deformable one in every block of layers 2 to 4.
    """

    def __init__(self, name: str, *, deformable: bool = False) -> None:
        super().__init__()
        resnet = torchvision.models.get_model(name, weights=None)
        self.conv1 = resnet.conv1
        self.bn1 = resnet.bn1
        self.relu = resnet.relu
        self.maxpool = resnet.maxpool
        self.layer1 = resnet.layer1
        self.layer2 = resnet.layer2
        self.layer3 = resnet.layer3
        self.layer4 = resnet.layer4
        self.channels: tuple[int, ...] = tuple(
            _out_channels(layer[-1])
            for layer in (self.layer1, self.layer2, self.layer3, self.layer4)
        )
        if deformable:
            for block in (*self.layer2, *self.layer3, *self.layer4):
                block.conv2 = _deformable_like(block.conv2)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)


def _out_channels(block: BasicBlock | Bottleneck) -> int:
    last = block.conv3 if isinstance(block, Bottleneck) else block.conv2
    return int(last.out_channels)


def _deformable_like(conv: nn.Conv2d) -> DeformableConv:
    return DeformableConv(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size[0],
        stride=conv.stride[0],
        padding=int(conv.padding[0]),
        groups=conv.groups,
    )


class MobileNetV2Backbone(nn.Module):
    """MobileNetV2 1.0 whose batch norms are folded into its convolutions.

    (B, 3, H, W) -> C2 to C5, as from a ResNet.
    Keys are torchvision's (``features.*``), each convolution with a bias, so that folded
    ImageNet or segmentation weights load as they are and inference pays for no norm.
    """

    channels: tuple[int, ...] = (24, 32, 96, 320)
    _ends = (4, 7, 14, 18)  # one past the last block of each stride

    def __init__(self) -> None:
        super().__init__()
        mobilenet = torchvision.models.mobilenet_v2(weights=None, norm_layer=nn.Identity)
        self.features = mobilenet.features[: self._ends[-1]]
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                module.bias = nn.Parameter(module.weight.new_zeros(module.out_channels))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = []
        x, start = images, 0
        for end in self._ends:
            x = self.features[start:end](x)
            maps.append(x)
            start = end
        return tuple(maps)


def build_backbone(name: str, *, deformable: bool) -> ResNetBackbone | MobileNetV2Backbone:
    """The backbone of that torchvision name; raises ValueError for one SOLOv2 cannot use."""
    if name.startswith(("resnet", "resnext")):
        return ResNetBackbone(name, deformable=deformable)
    if name == "mobilenet_v2" and not deformable:
        return MobileNetV2Backbone()
    raise ValueError(f"no backbone {name!r} with deformable={deformable}")
