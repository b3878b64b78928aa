from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from goldens import GOLDEN, load
from torch import Tensor

from model import postprocess as module
from model.config import InferenceConfig
from model.postprocess import points_nms, postprocess
from model.structures import Geometry, Instances, SOLOv2Output

GOLDENS = load(GOLDEN / "unit_postprocess.npz")
CASES = {case["name"]: case for case in GOLDENS.meta["cases"]}


def golden_output(name: str) -> SOLOv2Output:
    return SOLOv2Output(
        GOLDENS.levels(f"{name}/cls"),
        GOLDENS.levels(f"{name}/kernel"),
        GOLDENS.tensor(f"{name}/mask_feats"),
    )


def golden_geometries(name: str) -> list[Geometry]:
    height, width = (4 * side for side in GOLDENS[f"{name}/mask_feats"].shape[2:])
    return [
        Geometry(tuple(meta["ori_shape"][:2]), tuple(meta["img_shape"][:2]), (height, width))
        for meta in CASES[name]["metas"]
    ]


def golden_config(test_cfg: dict[str, Any]) -> InferenceConfig:
    return InferenceConfig(
        candidate_threshold=test_cfg["score_thr"],
        mask_threshold=test_cfg["mask_thr"],
        score_threshold=test_cfg["filter_thr"],
        candidates_before_nms=test_cfg["nms_pre"],
        max_instances=test_cfg["max_per_img"],
        nms_kernel=test_cfg["kernel"],
        nms_sigma=test_cfg["sigma"],
    )


def full_frame_masks(output: SOLOv2Output, cells: Tensor, geometry: Geometry) -> Tensor:
    """Every cell's mask as the original makes it: whole frames, two resizes."""
    kernels = torch.cat([k.flatten(2).transpose(1, 2) for k in output.kernels], dim=1)[0]
    logits = F.conv2d(output.mask_feature, kernels[cells, :, None, None])
    large = F.interpolate(logits.sigmoid(), size=geometry.canvas, mode="bilinear")
    cut = large[..., : geometry.resized[0], : geometry.resized[1]]
    return F.interpolate(cut, size=geometry.original, mode="bilinear")[0] > 0.5


def random_output(seed: int, cells_above: float = 0.5) -> SOLOv2Output:
    random = torch.Generator().manual_seed(seed)
    grids = (10, 8, 6, 4, 3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    coarse = F.interpolate(draw(1, 8, 4, 5), size=(24, 40), mode="bilinear")
    return SOLOv2Output(
        tuple(draw(1, 3, s, s) * 2 - 2 + cells_above for s in grids),
        tuple(draw(1, 8, s, s) for s in grids),
        coarse.relu(),
    )


@pytest.mark.parametrize("name", CASES)
def test_results_equal_the_originals(name: str) -> None:
    case = CASES[name]

    results = postprocess(
        golden_output(name), golden_geometries(name), golden_config(case["test_cfg"])
    )

    assert [len(result) for result in results] == case["n"]
    for index, result in enumerate(results):
        if len(result) == 0:
            continue
        expected = GOLDENS.bits(f"{name}/out{index}/masks_packed")
        assert result.labels.tolist() == GOLDENS[f"{name}/out{index}/labels"].tolist()
        np.testing.assert_allclose(
            result.scores, GOLDENS[f"{name}/out{index}/scores"], rtol=0, atol=2e-4
        )
        assert (result.full_masks() != expected).mean() <= 1e-5
        assert np.array_equal(result.boxes, GOLDENS[f"{name}/out{index}/mask2bbox"])


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
    everything = InferenceConfig(
        score_threshold=0.0, max_instances=1000, candidates_before_nms=1000
    )

    result = postprocess(output, [geometry], everything)[0]

    scores = torch.cat([points_nms(c.sigmoid()).flatten(2) for c in output.categories], dim=2)[0]
    cells = (scores.amax(0) > 0.1).nonzero()[:, 0]
    frames = full_frame_masks(output, cells, geometry).flatten(1).numpy()
    assert len(result) > 20
    for mask in result.full_masks():
        assert (frames != mask.reshape(-1)).mean(1).min() <= 1e-5


def test_boxes_are_the_tight_half_open_boxes_of_the_masks() -> None:
    result = postprocess(
        random_output(seed=1), [Geometry((60, 100), (96, 160), (96, 160))], InferenceConfig()
    )[0]

    assert len(result) > 0
    for box, mask in zip(result.boxes, result.full_masks(), strict=True):
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_working_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry((60, 100), (96, 160), (96, 160))
    whole = postprocess(random_output(seed=2), [geometry], InferenceConfig())[0]

    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 24 * 40 * 3)
    chunked = postprocess(random_output(seed=2), [geometry], InferenceConfig())[0]

    np.testing.assert_allclose(whole.scores, chunked.scores, atol=1e-6)
    assert (whole.full_masks() != chunked.full_masks()).mean() <= 1e-5


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
