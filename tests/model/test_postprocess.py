import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from outputs import (
    CASES,
    assert_golden,
    golden_config,
    golden_geometries,
    golden_output,
    random_output,
)

from model import crops
from model.config import InferenceConfig
from model.postprocess import points_nms, postprocess
from model.reference import reference_postprocess
from model.structures import Geometry, Instances

EVERYTHING = InferenceConfig(
    candidate_threshold=0.0, score_threshold=0.0, max_instances=1000, candidates_before_nms=1000
)


def assert_same(result: Instances, expected: Instances) -> None:
    assert np.array_equal(result.labels, expected.labels)
    np.testing.assert_allclose(result.scores, expected.scores, rtol=0, atol=1e-6)
    assert np.array_equal(result.boxes, expected.boxes)
    assert (result.full_masks() != expected.full_masks()).mean() <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_results_equal_the_originals(name: str) -> None:
    results = postprocess(
        golden_output(name), golden_geometries(name), golden_config(CASES[name]["test_cfg"])
    )

    assert_golden(results, name)


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((123, 205), (90, 150), (96, 160)),
        Geometry((31, 17), (96, 53), (96, 160)),
        Geometry((300, 500), (96, 160), (96, 160)),
        Geometry((1, 2), (80, 160), (96, 160)),
    ],
    ids=["larger", "smaller, much padding", "three times", "two pixels"],
)
def test_cropped_upsampling_equals_whole_frames(geometry: Geometry) -> None:
    output = random_output(seed=3)

    [result] = postprocess(output, [geometry], InferenceConfig(score_threshold=0.0))

    [expected] = reference_postprocess(output, [geometry], InferenceConfig(score_threshold=0.0))
    assert len(result) > 20
    assert_same(result, expected)


@pytest.mark.parametrize("chunk_elements", [1, 24 * 40 * 7, 1 << 24])
def test_a_flood_of_candidates_gives_what_one_mask_for_each_would(
    monkeypatch: pytest.MonkeyPatch, chunk_elements: int
) -> None:
    flood = random_output(seed=6)
    flood = replace(flood, categories=tuple(torch.rand_like(c) + 3 for c in flood.categories))
    geometry = Geometry((60, 100), (96, 160), (96, 160))
    monkeypatch.setattr(crops, "_CHUNK_ELEMENTS", chunk_elements)

    [result] = postprocess(flood, [geometry], EVERYTHING)

    [expected] = reference_postprocess(flood, [geometry], EVERYTHING)
    assert len(result) > 100
    assert_same(result, expected)


FLOOD = """
import resource, torch
from model.config import InferenceConfig
from model.postprocess import postprocess
from model.structures import Geometry, SOLOv2Output

torch.manual_seed(0)
with torch.inference_mode():
    output = SOLOv2Output(
        tuple(torch.full((1, 80, s, s), 3.0) for s in (40, 36, 24, 16, 12)),
        tuple(torch.rand(1, 16, s, s) for s in (40, 36, 24, 16, 12)),
        torch.rand(1, 16, 200, 336),
    )
    geometry = Geometry((3000, 4000), (800, 1333), (800, 1344))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    [found] = postprocess(output, [geometry], InferenceConfig())
added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(found), found.masks[0].sum(), added)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in Linux's unit")
def test_309760_candidates_and_100_masks_of_12_megapixels_fit_in_a_gigabyte() -> None:
    run = subprocess.run([sys.executable, "-c", FLOOD], capture_output=True, text=True, check=True)

    found, pixels, kibibytes = map(int, run.stdout.split())
    assert (found, pixels) == (100, 3000 * 4000)  # every mask is the whole picture
    assert kibibytes < 1024**2


def test_boxes_are_the_tight_half_open_boxes_of_the_masks() -> None:
    result = postprocess(
        random_output(seed=1), [Geometry((60, 100), (96, 160), (96, 160))], InferenceConfig()
    )[0]

    assert len(result) > 0
    for box, mask in zip(result.boxes, result.full_masks(), strict=True):
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_a_mask_that_lies_in_the_padding_alone_stays_without_box() -> None:
    output = random_output(seed=4)
    output.mask_feature[:, :, :, :24] = 0  # nothing but the right-hand columns can be above 0.5

    result = postprocess(
        output, [Geometry((60, 50), (96, 80), (96, 160))], InferenceConfig(score_threshold=0.0)
    )[0]

    assert len(result) > 0
    assert not result.boxes.any()
    assert all(mask.size == 0 for mask in result.masks)


def test_nothing_above_the_threshold_is_an_empty_result_of_the_right_types() -> None:
    silent = random_output(seed=5)
    silent = replace(silent, categories=tuple(c - 100 for c in silent.categories))

    result = postprocess(silent, [Geometry((6, 10), (96, 160), (96, 160))], InferenceConfig())[0]

    assert isinstance(result, Instances)
    assert len(result) == 0
    assert result.full_masks().shape == (0, 6, 10)
    assert (result.scores.dtype, result.labels.dtype) == (np.float32, np.int64)
    assert result.boxes.shape == (0, 4)


def test_points_nms_compares_with_the_upper_left_neighbours_only() -> None:
    grid = torch.tensor([[0.5, 0.6, 0.1], [0.4, 0.6, 0.7], [0.9, 0.2, 0.3]])

    kept = points_nms(grid[None, None])[0, 0]

    # 0.4 falls to 0.5 above it; 0.6 ties with the 0.6 above and stays; 0.1 falls to its left.
    expected = torch.tensor([[0.5, 0.6, 0.0], [0.0, 0.6, 0.7], [0.9, 0.0, 0.0]])
    assert torch.equal(kept, expected)
