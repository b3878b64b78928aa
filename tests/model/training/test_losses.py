from typing import Any

import pytest
import torch
from torch import Tensor

from model.structures import SOLOv2Output
from model.training.losses import solov2_losses
from model.training.targets import Targets, merge_targets


def test_losses_and_gradients_are_the_originals(case: Any) -> None:
    output = case.output()

    losses = solov2_losses(output, merge_targets([case.targets(i) for i in range(case.batch)]))
    losses.total.backward()

    assert losses.mask.item() == pytest.approx(case.arrays["loss_mask"].item(), rel=1e-5)
    assert losses.category.item() == pytest.approx(case.arrays["loss_cls"].item(), rel=1e-5)
    assert_gradient(output.mask_feature, case, "grad_mask_feats")
    for level in range(5):
        assert_gradient(output.categories[level], case, f"grad_cls{level}")
        assert_gradient(output.kernels[level], case, f"grad_kernel{level}")


def assert_gradient(tensor: Tensor, case: Any, key: str) -> None:
    """The original leaves no gradient, an empty array here, where a level has no object."""
    wanted = case.tensor(key).float() if case.arrays[key].size else torch.zeros_like(tensor)
    assert tensor.grad is not None
    torch.testing.assert_close(tensor.grad, wanted, rtol=1e-4, atol=1e-6)


def test_every_cell_is_compared_with_the_objects_that_claim_it() -> None:
    torch.manual_seed(0)
    targets = two_pictures()
    output = random_output()

    losses = solov2_losses(output, targets)

    assert losses.mask.item() == pytest.approx(loop_mask_loss(output, targets), rel=1e-5)


def two_pictures() -> Targets:
    """Cells 0, 3 and 5 in the first picture, one of them shared, and cell 2 in the second."""
    return Targets(
        labels=torch.tensor([[0, 2, 2, 1, 2, 0], [2, 2, 1, 2, 2, 2]]),
        cells=torch.tensor([0, 3, 5, 2]),
        pairs=torch.tensor([[0, 0], [1, 0], [1, 1], [2, 1], [0, 0]]),
        masks=(torch.rand(3, 8, 8) > 0.5).byte(),
        cells_per_image=(3, 1),
        pairs_per_image=(4, 1),
        masks_per_image=(2, 1),
    )


def random_output() -> SOLOv2Output:
    """Two pictures, grids of 2x2, 1x1 and 1x1 cells, two classes."""
    grids = (2, 1, 1)
    return SOLOv2Output(
        tuple(torch.randn(2, 2, s, s) for s in grids),
        tuple(torch.randn(2, 4, s, s) for s in grids),
        torch.rand(2, 4, 8, 8),
    )


def loop_mask_loss(output: SOLOv2Output, targets: Targets) -> float:
    """Three times the sum of 1 - Dice, pair by pair, per distinct cell."""
    total = 0.0
    for image, (cells, pairs, masks) in enumerate(targets.per_image()):
        kernels = [k[image, :, y, x] for k in output.kernels for y, x in all_cells(k)]
        for row, instance in pairs.tolist():
            kernel = kernels[int(cells[row])]
            drawn = (kernel[:, None, None] * output.mask_feature[image]).sum(0).sigmoid()
            wanted = masks[instance].float()
            both = 2 * (drawn * wanted).sum()
            total += 1 - float(both / ((drawn**2).sum() + (wanted**2).sum() + 0.002))
    return 3 * total / len(targets.cells)


def all_cells(grid: Tensor) -> list[tuple[int, int]]:
    return [(y, x) for y in range(grid.shape[2]) for x in range(grid.shape[3])]


def test_the_count_of_all_processes_divides_the_losses() -> None:
    targets, output = two_pictures(), random_output()

    own = solov2_losses(output, targets)
    shared = solov2_losses(output, targets, torch.tensor(8.0))

    assert shared.mask.item() == pytest.approx(own.mask.item() * 4 / 8)
    assert shared.category.item() == pytest.approx(own.category.item() * 5 / 9)


def test_the_loss_is_float32_under_autocast() -> None:
    targets, output = two_pictures(), random_output()
    wanted = solov2_losses(output, targets)

    with torch.autocast("cpu", torch.bfloat16):
        losses = solov2_losses(output, targets)

    assert losses.mask.dtype == losses.category.dtype == torch.float32
    assert torch.equal(losses.total, wanted.total)
