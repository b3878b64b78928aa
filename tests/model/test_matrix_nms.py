import math

import numpy as np
import pytest
import torch
from goldens import GOLDEN, load
from torch import Tensor

from model import matrix_nms as module
from model.matrix_nms import matrix_nms

GOLDENS = load(GOLDEN / "unit_matrix_nms.npz")


def random_instances(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 20, 30, dtype=torch.bool)
    for index, mask in enumerate(masks):
        top, left = (int(torch.randint(0, n, (), generator=random)) for n in (12, 20))
        mask[top : top + 8, left : left + 10] = True
        mask.view(-1)[index] ^= True  # no two alike
    labels = torch.randint(0, 2, (count,), generator=random)
    scores = torch.rand(count, generator=random).sort(descending=True).values
    return masks, labels, scores


def loop_matrix_nms(
    masks: Tensor, labels: Tensor, scores: Tensor, kernel: str, sigma: float
) -> list[float]:
    """The paper's equations 4 and 5, pair by pair."""

    def iou(i: int, j: int) -> float:
        union = float((masks[i] | masks[j]).sum())
        same = labels[i] == labels[j] and union > 0
        return float((masks[i] & masks[j]).sum()) / union if same else 0.0

    def f(value: float) -> float:
        return math.exp(-sigma * value**2) if kernel == "gaussian" else 1 - value

    decayed = []
    for j in range(len(scores)):
        decay = 1.0
        for i in range(j):
            covered = max((iou(k, i) for k in range(i)), default=0.0)
            if iou(i, j) > 0:
                decay = min(decay, f(iou(i, j)) / f(covered))
        decayed.append(float(scores[j]) * decay)
    return decayed


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_matches_the_papers_formula(count: int, kernel: str) -> None:
    masks, labels, scores = random_instances(count)

    decayed = matrix_nms(masks, labels, scores, kernel=kernel, sigma=1.5)  # type: ignore[arg-type]

    assert decayed.tolist() == pytest.approx(
        loop_matrix_nms(masks, labels, scores, kernel, 1.5), rel=1e-5
    )


@pytest.mark.parametrize("case", GOLDENS.meta["cases"], ids=lambda case: str(case["case"]))
def test_keeps_what_the_original_keeps(case: dict[str, object]) -> None:
    index, settings = case["case"], dict(case["kwargs"])  # type: ignore[call-overload]
    shape = GOLDENS[f"{index}/shape"]
    masks = torch.from_numpy(
        np.unpackbits(GOLDENS[f"{index}/masks"])[: shape.prod()].reshape(shape)
    ).bool()
    labels, scores = GOLDENS.tensor(f"{index}/labels"), GOLDENS.tensor(f"{index}/scores")
    threshold = settings.pop("filter_thr", -1)
    before, after = settings.pop("nms_pre", -1), settings.pop("max_num", -1)

    order = scores.sort(descending=True).indices[: before if before > 0 else None]
    decayed = matrix_nms(masks[order], labels[order], scores[order], **settings)
    kept, rank = decayed[decayed >= threshold].sort(descending=True)
    chosen = order[decayed >= threshold][rank][: after if after > 0 else None]

    torch.testing.assert_close(
        kept[: len(chosen)], GOLDENS.tensor(f"{index}/out_scores"), rtol=0, atol=1e-6
    )
    assert chosen.tolist() == GOLDENS[f"{index}/out_keep"].tolist()


def test_all_classes_at_once_as_on_a_gpu_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, labels, scores = random_instances(30)
    apart = matrix_nms(masks, labels, scores)
    monkeypatch.setattr(module, "_classes", lambda labels: [torch.arange(len(labels))])

    together = matrix_nms(masks, labels, scores)

    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)


def test_no_instances_give_no_scores() -> None:
    nothing = matrix_nms(
        torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    )

    assert nothing.shape == (0,)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_identical_empty_masks_stay_finite(kernel: str) -> None:
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)

    decayed = matrix_nms(
        masks,
        torch.zeros(3, dtype=torch.int64),
        torch.tensor([0.9, 0.8, 0.7]),
        kernel=kernel,  # type: ignore[arg-type]
    )

    assert decayed.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_three_identical_masks_leave_only_the_best_under_the_linear_kernel() -> None:
    masks = torch.ones(3, 4, 4, dtype=torch.bool)

    decayed = matrix_nms(
        masks, torch.zeros(3, dtype=torch.int64), torch.tensor([0.9, 0.8, 0.7]), kernel="linear"
    )

    assert decayed.tolist() == pytest.approx([0.9, 0.0, 0.0])
