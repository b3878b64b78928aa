import torch
from goldens import GOLDEN, load

from model.convert_mmdet import rename_key
from model.mask_feature import MaskFeature


def test_the_mask_feature_equals_the_originals() -> None:
    golden = load(GOLDEN / "unit_head_forward.npz")
    branch = MaskFeature(
        in_channels=32, hidden_channels=32, out_channels=16, norm_groups=8, deformable=False
    )
    names = {n: rename_key(f"mask_head.{n.removeprefix('sd/')}") for n in golden.arrays}
    branch.load_state_dict(
        {
            ours.removeprefix("mask_feature."): golden.tensor(name)
            for name, ours in names.items()
            if ours.startswith("mask_feature.")
        }
    )

    with torch.no_grad():
        feature = branch(golden.levels("x"))

    torch.testing.assert_close(feature, golden.tensor("mask_feats"), rtol=0, atol=1e-4)
    assert feature.min() >= 0


def test_only_the_coarsest_level_is_told_where_it_is() -> None:
    branch = MaskFeature(
        in_channels=8, hidden_channels=8, out_channels=4, norm_groups=4, deformable=True
    )

    inputs = [level[0].conv.offset.in_channels for level in branch.levels]

    assert inputs == [8, 8, 8, 10]
