"""Official networks give MMDetection's results, from a picture's pixels to the masks' pixels."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch
from goldens import GOLDEN, OFFICIAL, REFERENCE, load, picture
from parity import Deviation, deviation, seeded_predictor

from model.structures import Instances

LARGE = REFERENCE / "goldens"
LARGE_NAMES = (
    "tiny_light_r18_3x",
    "tiny_light_r50_3x",
    "tiny_light_r50_dcn_3x",
    "tiny_r50_3x",
    "tiny_r101_3x",
    "tiny_x101_dcn_3x",
    "light_r18_demo",
    "light_r50_dcn_demo",
    "r50_demo",
)


@pytest.fixture(autouse=True)
def threads_of_the_original() -> Iterator[None]:
    """How many there are decides how sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def assert_within_tolerance(result: Deviation) -> None:
    assert result.logits <= 1e-4
    assert result.kernels <= 1e-4
    assert result.scores_but_one_cell <= 2e-4
    assert result.pixels <= 1e-5
    assert result.iou >= 0.9999
    assert result.boxes == 0


def assert_identical(one: Instances, other: Instances) -> None:
    assert np.array_equal(one.scores, other.scores)
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.full_masks(), other.full_masks())


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
@pytest.mark.parametrize("variant", OFFICIAL)
def test_a_drawn_picture(variant: str, exact: bool, record_property) -> None:
    golden = load(GOLDEN / f"micro_{variant}.npz")

    result = deviation(golden, seeded_predictor(golden, exact=exact), picture())

    if exact:
        record_property("identical", result.none)
    assert_within_tolerance(result)


@pytest.mark.reference
@pytest.mark.skipif(not LARGE.is_dir(), reason="no large goldens here")
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
@pytest.mark.parametrize("name", LARGE_NAMES)
def test_a_photo(name: str, exact: bool, record_property) -> None:
    golden = load(LARGE / f"{name}.npz")
    photo = cv2.imread(str(LARGE / "demo.jpg"))[:, :, ::-1]

    result = deviation(golden, seeded_predictor(golden, exact=exact), photo)

    if exact:
        record_property("identical", result.none)
    assert_within_tolerance(result)


@pytest.mark.parametrize("variant", ["light_r18_3x", "light_r50_dcn_3x"])
def test_a_picture_gets_the_same_result_alone_and_in_company(variant: str) -> None:
    predictor = seeded_predictor(load(GOLDEN / f"micro_{variant}.npz"))
    image, mirrored, smaller = picture(), picture()[:, ::-1].copy(), picture(90, 200)

    [alone] = predictor.predict([image])
    _, with_its_like = predictor.predict([mirrored, image])
    _, _, among_others = predictor.predict([smaller, mirrored, image])

    assert len(alone) > 0
    assert_identical(with_its_like, alone)
    assert_identical(among_others, alone)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("variant", OFFICIAL)
def test_a_drawn_picture_on_a_gpu_alone_and_in_a_batch(variant: str) -> None:
    golden = load(GOLDEN / f"micro_{variant}.npz")
    predictor = seeded_predictor(golden, "cuda")

    result = deviation(golden, predictor, picture())
    [alone] = predictor.predict([picture()])
    _, with_its_like = predictor.predict([picture()[:, ::-1].copy(), picture()])

    assert result.scores_but_one_cell <= 2e-4
    assert sorted(with_its_like.labels) == sorted(alone.labels)
    np.testing.assert_allclose(with_its_like.scores, alone.scores, rtol=0, atol=2e-4)
