"""Numbers that define a network, numbers an operator may change, and the named variants."""

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

ScaleRanges = tuple[tuple[float, float], ...]

# Which object sizes (square root of the box area, in input pixels) train which grid.
# MMDetection configs/solov2: full models, light models, light model with deformable convolution.
FULL_SCALE_RANGES: ScaleRanges = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
LIGHT_SCALE_RANGES: ScaleRanges = ((1, 56), (28, 112), (56, 224), (112, 448), (224, 896))
LIGHT_DCN_SCALE_RANGES: ScaleRanges = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))

_COCO_CLASSES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,"
    "baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,"
    "knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,"
    "chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,"
    "cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,"
    "hair drier,toothbrush"
)
COCO_CLASSES: tuple[str, ...] = tuple(_COCO_CLASSES.split(","))


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessConfig:
    """How pixels become network input.

    ``mean`` and ``std`` are in RGB order on the 0-255 scale. ``long_side`` and ``short_side``
    bound the resized image in pixels; the aspect ratio is kept.
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    long_side: int = 1333
    short_side: int = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class SOLOv2Config:
    """All that a checkpoint fixes. Defaults are MMDetection's ``solov2_r50_fpn``."""

    variant: str = "r50_3x"
    backbone: str = "resnet50"
    class_names: tuple[str, ...] = COCO_CLASSES
    fpn_channels: int = 256
    head_channels: int = 512
    head_depth: int = 4
    mask_hidden_channels: int = 128
    mask_channels: int = 256  # E
    norm_groups: int = 32
    num_grids: tuple[int, ...] = (40, 36, 24, 16, 12)
    deformable_backbone: bool = False
    deformable_tower: Literal["none", "last", "all"] = "none"
    deformable_mask_feature: bool = False
    scale_ranges: ScaleRanges = FULL_SCALE_RANGES
    preprocess: PreprocessConfig = PreprocessConfig()

    def __post_init__(self) -> None:
        if not self.class_names:
            raise ValueError("a SOLOv2 model needs at least one class name")
        if len(self.num_grids) != 5 or len(self.scale_ranges) != 5:
            raise ValueError("SOLOv2 has five grids, each with its scale range")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig:
    """What an operator may tune. Defaults are MMDetection's ``test_cfg`` of SOLOv2."""

    candidate_threshold: float = 0.1  # class probability, before mask rescoring
    mask_threshold: float = 0.5  # mask probability
    score_threshold: float = 0.05  # after Matrix NMS
    candidates_before_nms: int = 500
    max_instances: int = 100
    nms_kernel: Literal["gaussian", "linear"] = "gaussian"
    nms_sigma: float = 2.0


_FULL = SOLOv2Config()
_LIGHT = replace(
    _FULL,
    head_channels=256,
    head_depth=2,
    mask_channels=128,
    scale_ranges=LIGHT_SCALE_RANGES,
    preprocess=PreprocessConfig(long_side=768, short_side=448),
)
_DCN = replace(
    _FULL, deformable_backbone=True, deformable_tower="all", deformable_mask_feature=True
)

#: The nine official MMDetection variants and the network of the shipped weights.
VARIANTS = MappingProxyType(
    {
        config.variant: config
        for config in (
            replace(_FULL, variant="r50_1x"),
            replace(_FULL, variant="r50_3x"),
            replace(_FULL, variant="r101_3x", backbone="resnet101"),
            replace(_DCN, variant="r101_dcn_3x", backbone="resnet101"),
            replace(_DCN, variant="x101_dcn_3x", backbone="resnext101_64x4d"),
            replace(_LIGHT, variant="light_r18_3x", backbone="resnet18"),
            replace(_LIGHT, variant="light_r34_3x", backbone="resnet34"),
            replace(_LIGHT, variant="light_r50_3x", backbone="resnet50"),
            replace(
                _LIGHT,
                variant="light_r50_dcn_3x",
                head_depth=3,
                deformable_backbone=True,
                deformable_tower="last",
                scale_ranges=LIGHT_DCN_SCALE_RANGES,
            ),
            SOLOv2Config(
                variant="mobile",
                backbone="mobilenet_v2",
                class_names=("person", "cat"),
                fpn_channels=96,
                head_channels=128,
                head_depth=2,
                mask_hidden_channels=64,
                mask_channels=64,
                scale_ranges=LIGHT_SCALE_RANGES,
                preprocess=PreprocessConfig(
                    mean=(127.5, 127.5, 127.5),
                    std=(127.5, 127.5, 127.5),
                    long_side=512,
                    short_side=384,
                ),
            ),
        )
    }
)
