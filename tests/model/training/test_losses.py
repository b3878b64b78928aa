import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.structures import SOLOv2Output
from model.training.losses import solov2_losses
from model.training.targets import Targets, assign_targets, merge_targets

GOLDEN = Path(__file__).parents[2] / "golden" / "unit_train.npz"
CASES = ["normal", "batch_of_two", "no_gt_in_range", "crowded", "empty_mask"]
LEVELS = range(5)


class Case:
    """One case of the original's targets, losses and gradients."""

    def __init__(self, name: str) -> None:
        with np.load(GOLDEN) as file:
            self.meta: dict[str, Any] = json.loads(file["meta"].tobytes())
            self.arrays = {k.removeprefix(f"{name}/"): file[k] for k in file.files if name in k}
        self.batch = len(self.arrays["mask_feats"])

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key].copy())

    def bits(self, key: str) -> Tensor:
        """A bool or 0-1 array that is stored eight values to the byte."""
        shape = self.arrays[f"{key}_shape"]
        bits = np.unpackbits(self.arrays[key], count=int(shape.prod())).reshape(shape)
        return torch.from_numpy(bits.astype(bool))

    def targets(self, image: int) -> Targets:
        return assign_targets(
            self.bits(f"gt{image}/masks"),
            self.tensor(f"gt{image}/bboxes"),
            self.tensor(f"gt{image}/labels"),
            num_grids=tuple(self.meta["num_grids"]),
            scale_ranges=tuple(map(tuple, self.meta["scale_ranges"])),
            num_classes=self.meta["num_classes"],
        )

    def output(self) -> SOLOv2Output:
        """The raw predictions, as leaves that collect gradients."""
        return SOLOv2Output(
            tuple(self.tensor(f"cls{i}").requires_grad_() for i in LEVELS),
            tuple(self.tensor(f"kernel{i}").requires_grad_() for i in LEVELS),
            self.tensor("mask_feats").requires_grad_(),
        )


@pytest.mark.parametrize("name", CASES)
def test_targets_are_the_originals_bit_for_bit(name: str) -> None:
    case = Case(name)

    for image in range(case.batch):
        targets = case.targets(image)
        cells = targets.cells[targets.pairs[:, 0]]
        masks = targets.masks[targets.pairs[:, 1]]
        start = 0
        for level, grid in enumerate(case.meta["num_grids"]):
            key = f"gt{image}/lvl{level}"
            here = (cells >= start) & (cells < start + grid * grid)
            labels = targets.labels[0, start : start + grid * grid]
            assert torch.equal(labels.view(grid, grid), case.tensor(f"{key}/labels"))
            assert torch.equal(cells[here] - start, case.tensor(f"{key}/pos_index"))
            assert torch.equal(masks[here].bool(), case.bits(f"{key}/mask_targets"))
            start += grid * grid


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_the_originals(name: str) -> None:
    case = Case(name)
    output = case.output()

    losses = solov2_losses(output, merge_targets([case.targets(i) for i in range(case.batch)]))
    losses.total.backward()

    assert losses.mask.item() == pytest.approx(case.arrays["loss_mask"].item(), rel=1e-5)
    assert losses.category.item() == pytest.approx(case.arrays["loss_cls"].item(), rel=1e-5)
    assert_gradient(output.mask_feature, case, "grad_mask_feats")
    for level in LEVELS:
        assert_gradient(output.categories[level], case, f"grad_cls{level}")
        assert_gradient(output.kernels[level], case, f"grad_kernel{level}")


def assert_gradient(tensor: Tensor, case: Case, key: str) -> None:
    """The original leaves no gradient, an empty array here, where a level has no object."""
    wanted = case.tensor(key).float() if case.arrays[key].size else torch.zeros_like(tensor)
    assert tensor.grad is not None
    torch.testing.assert_close(tensor.grad, wanted, rtol=1e-4, atol=1e-6)
