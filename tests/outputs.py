"""Raw network outputs: those of the goldens, with the results they must give, and drawn ones."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from goldens import GOLDEN, load
from torch import Tensor

from model.config import InferenceConfig
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


def assert_golden(results: list[Instances], name: str) -> None:
    """The results of that case are the original's."""
    assert [len(result) for result in results] == CASES[name]["n"]
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
