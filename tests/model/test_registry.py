import re

import pytest

from model.config import VARIANTS
from model.registry import PUBLISHED


def test_every_variant_that_has_published_weights_is_listed() -> None:
    ours = {"mobile", "light_r50_dcn_3x"}  # not MMDetection's; in MMDetection without weights

    assert PUBLISHED.keys() == VARIANTS.keys() - ours


@pytest.mark.parametrize("variant", PUBLISHED)
def test_file_names_carry_the_variant_a_date_and_a_hash(variant: str) -> None:
    published = PUBLISHED[variant]

    backbone, _, schedule = variant.rpartition("_")
    pattern = rf"solov2_{backbone}_fpn_{schedule}_coco_2022\d{{4}}_\d{{6}}-[0-9a-f]{{8}}\.pth"
    assert re.fullmatch(pattern, published.file_name)


def test_hashes_are_of_one_file_each() -> None:
    assert len({published.sha256_prefix for published in PUBLISHED.values()}) == len(PUBLISHED)


def test_an_address_has_the_models_folder_and_the_file() -> None:
    published = PUBLISHED["r101_dcn_3x"]

    assert published.sha256_prefix == "16c966cb"
    assert published.url == (
        "https://download.openmmlab.com/mmdetection/v2.0/solov2/solov2_r101_dcn_fpn_3x_coco/"
        "solov2_r101_dcn_fpn_3x_coco_20220513_214734-16c966cb.pth"
    )


def test_accuracy_is_in_percent_as_reported() -> None:
    assert PUBLISHED["light_r18_3x"].mask_ap == 29.7
    assert PUBLISHED["x101_dcn_3x"].mask_ap == 42.4
