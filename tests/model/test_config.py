import dataclasses
import itertools
from typing import Any

import pytest

from model.config import (
    COCO_CLASSES,
    VARIANTS,
    InferenceConfig,
    PreprocessConfig,
    SOLOv2Config,
)

# MMDetection's configs/solov2: backbone, head channels, head depth, E, test scale, and where
# deformable convolutions stand (backbone, towers, mask feature).
OFFICIAL: dict[str, tuple[Any, ...]] = {
    "r50_1x": ("resnet50", 512, 4, 256, (1333, 800), (False, "none", False)),
    "r50_3x": ("resnet50", 512, 4, 256, (1333, 800), (False, "none", False)),
    "r101_3x": ("resnet101", 512, 4, 256, (1333, 800), (False, "none", False)),
    "r101_dcn_3x": ("resnet101", 512, 4, 256, (1333, 800), (True, "all", True)),
    "x101_dcn_3x": ("resnext101_64x4d", 512, 4, 256, (1333, 800), (True, "all", True)),
    "light_r18_3x": ("resnet18", 256, 2, 128, (768, 448), (False, "none", False)),
    "light_r34_3x": ("resnet34", 256, 2, 128, (768, 448), (False, "none", False)),
    "light_r50_3x": ("resnet50", 256, 2, 128, (768, 448), (False, "none", False)),
    "light_r50_dcn_3x": ("resnet50", 256, 3, 128, (768, 448), (True, "last", False)),
}


def test_there_are_the_nine_official_variants_and_the_shipped_one() -> None:
    assert set(VARIANTS) == {*OFFICIAL, "mobile"}


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_official_variant_has_mmdetections_numbers(name: str) -> None:
    config = VARIANTS[name]

    deformable = (
        config.deformable_backbone,
        config.deformable_tower,
        config.deformable_mask_feature,
    )
    scale = (config.preprocess.long_side, config.preprocess.short_side)
    assert (
        config.backbone,
        config.head_channels,
        config.head_depth,
        config.mask_channels,
        scale,
        deformable,
    ) == OFFICIAL[name]
    assert config.variant == name
    assert config.num_grids == (40, 36, 24, 16, 12)
    assert (config.fpn_channels, config.mask_hidden_channels, config.norm_groups) == (256, 128, 32)
    assert config.class_names == COCO_CLASSES


@pytest.mark.parametrize(
    ("name", "last_range"),
    [("r50_3x", (384, 2048)), ("light_r18_3x", (224, 896)), ("light_r50_dcn_3x", (256, 2048))],
)
def test_each_family_has_its_own_scale_ranges(name: str, last_range: tuple[int, int]) -> None:
    assert VARIANTS[name].scale_ranges[-1] == last_range


@pytest.mark.parametrize("name", VARIANTS)
def test_scale_ranges_overlap_so_that_no_object_size_falls_between_two_grids(name: str) -> None:
    ranges = VARIANTS[name].scale_ranges

    assert all(lower[1] > upper[0] for lower, upper in itertools.pairwise(ranges))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_normalised_width_divides_into_its_groups(name: str) -> None:
    config = VARIANTS[name]

    widths = (config.head_channels, config.mask_hidden_channels, config.mask_channels)
    assert all(width % config.norm_groups == 0 for width in widths)


def test_the_shipped_network_finds_people_and_cats() -> None:
    assert VARIANTS["mobile"].class_names == ("person", "cat")
    assert VARIANTS["mobile"].num_classes == 2


def test_there_are_eighty_coco_classes() -> None:
    assert len(set(COCO_CLASSES)) == 80
    assert COCO_CLASSES[0] == "person"
    assert COCO_CLASSES[9] == "traffic light"
    assert COCO_CLASSES[-1] == "toothbrush"


def test_a_model_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one class name"):
        SOLOv2Config(class_names=())


def test_another_number_of_grids_than_five_is_refused() -> None:
    with pytest.raises(ValueError, match="five grids"):
        SOLOv2Config(num_grids=(40, 36, 24, 16))


def test_another_number_of_scale_ranges_than_five_is_refused() -> None:
    with pytest.raises(ValueError, match="five grids"):
        SOLOv2Config(scale_ranges=((1, 96), (48, 192)))


def test_the_variants_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError):
        VARIANTS["mine"] = SOLOv2Config()  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        VARIANTS["mobile"].head_depth = 7  # type: ignore[misc]


def test_inference_defaults_are_mmdetections_test_config() -> None:
    config = InferenceConfig()

    assert (config.candidate_threshold, config.mask_threshold, config.score_threshold) == (
        0.1,
        0.5,
        0.05,
    )
    assert (config.candidates_before_nms, config.max_instances) == (500, 100)
    assert (config.nms_kernel, config.nms_sigma) == ("gaussian", 2.0)


def test_images_are_normalised_with_imagenets_statistics_by_default() -> None:
    config = PreprocessConfig()

    assert [round(mean / 255, 3) for mean in config.mean] == [0.485, 0.456, 0.406]
    assert [round(std / 255, 3) for std in config.std] == [0.229, 0.224, 0.225]
    assert (config.long_side, config.short_side) == (1333, 800)
