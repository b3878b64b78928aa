import pytest
import torch
from goldens import GOLDEN, load

from model.convert_mmdet import rename_key
from model.head import SOLOv2Head
from model.layers import DeformableConv

GRIDS = (10, 8, 6, 4, 3)


def small_head(deformable: str = "none", depth: int = 2) -> SOLOv2Head:
    return SOLOv2Head(
        in_channels=32,
        channels=32,
        depth=depth,
        num_classes=6,
        mask_channels=16,
        num_grids=GRIDS,
        norm_groups=8,
        deformable=deformable,  # type: ignore[arg-type]
    )


def test_every_grids_logits_and_kernels_equal_the_originals() -> None:
    golden = load(GOLDEN / "unit_head_forward.npz")
    names = {n: rename_key(f"mask_head.{n.removeprefix('sd/')}") for n in golden.arrays}
    head = small_head()
    head.load_state_dict(
        {
            ours.removeprefix("head."): golden.tensor(name)
            for name, ours in names.items()
            if ours.startswith("head.")
        }
    )

    with torch.no_grad():
        categories, kernels = head(golden.levels("x"))

    for level in range(5):
        torch.testing.assert_close(
            categories[level], golden.tensor(f"cls{level}"), rtol=0, atol=1e-4
        )
        torch.testing.assert_close(
            kernels[level], golden.tensor(f"kernel{level}"), rtol=0, atol=1e-4
        )


def test_a_fresh_head_gives_every_class_a_probability_of_about_one_percent() -> None:
    pyramid = [torch.randn(1, 32, 48 >> i, 64 >> i) for i in range(5)]

    with torch.no_grad():
        categories, _ = small_head()(pyramid)

    probability = torch.cat([c.flatten() for c in categories]).sigmoid()
    assert probability.mean().item() == pytest.approx(0.01, abs=0.003)


@pytest.mark.parametrize(("where", "indices"), [("none", []), ("last", [2]), ("all", [0, 1, 2])])
def test_deformable_convolutions_stand_where_the_variant_wants_them(
    where: str, indices: list[int]
) -> None:
    head = small_head(where, depth=3)

    for tower in (head.category_tower, head.kernel_tower):
        bends = [i for i, block in enumerate(tower) if isinstance(block.conv, DeformableConv)]
        assert bends == indices


def test_fresh_deformable_convolutions_start_without_offsets() -> None:
    head = small_head("all")

    bends = [module for module in head.modules() if isinstance(module, DeformableConv)]

    assert len(bends) == 4
    assert not any(bend.offset.weight.any() for bend in bends)
    assert all(bend.weight.std().item() == pytest.approx(0.01, rel=0.1) for bend in bends)
