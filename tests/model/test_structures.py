import pickle

import numpy as np
import pytest

from model.structures import Instances, MaskCrops


def three_instances() -> Instances:
    """An L, a single pixel in the corner and an empty mask, in a 5x6 image."""
    return Instances(
        scores=np.array([0.9, 0.5, 0.25], np.float32),
        labels=np.array([1, 0, 1], np.int64),
        boxes=np.array([(1, 1, 3, 4), (5, 4, 6, 5), (0, 0, 0, 0)], np.int64),
        masks=MaskCrops.pack(
            [
                np.array([(1, 0), (1, 0), (1, 1)], np.bool_),
                np.ones((1, 1), np.bool_),
                np.zeros((0, 0), np.bool_),
            ]
        ),
        height=5,
        width=6,
    )


def test_the_length_is_the_number_of_instances() -> None:
    assert len(three_instances()) == 3


def test_full_masks_place_each_crop_at_its_box() -> None:
    masks = three_instances().full_masks()

    assert masks.shape == (3, 5, 6)
    assert masks.dtype == np.bool_
    assert np.argwhere(masks[0]).tolist() == [[1, 1], [2, 1], [3, 1], [3, 2]]
    assert np.argwhere(masks[1]).tolist() == [[4, 5]]
    assert not masks[2].any()


def test_a_bool_array_keeps_the_same_instances_in_every_field() -> None:
    instances = three_instances()

    kept = instances[instances.labels == 1]

    assert kept.scores.tolist() == pytest.approx([0.9, 0.25])
    assert kept.labels.tolist() == [1, 1]
    assert kept.boxes.tolist() == [[1, 1, 3, 4], [0, 0, 0, 0]]
    assert [mask.shape for mask in kept.masks] == [(3, 2), (0, 0)]
    assert (kept.height, kept.width) == (5, 6)
    assert (kept.full_masks() == instances.full_masks()[[0, 2]]).all()


def test_nothing_kept_is_still_an_answer() -> None:
    instances = three_instances()

    none = instances[instances.scores > 1]

    assert len(none) == 0
    assert none.boxes.shape == (0, 4)
    assert none.full_masks().shape == (0, 5, 6)


def test_a_selection_of_another_length_is_refused() -> None:
    with pytest.raises(IndexError):
        three_instances()[np.array([True, False])]


@pytest.mark.parametrize("field", ["scores", "labels", "boxes", "masks"])
def test_fields_of_different_lengths_are_refused(field: str) -> None:
    whole = three_instances()
    fields = {name: getattr(whole, name) for name in ("scores", "labels", "boxes", "masks")}
    masks = fields["masks"]
    fields[field] = masks.select([0, 1]) if field == "masks" else fields[field][:2]

    with pytest.raises(ValueError, match=r"equally many of each field, got \[2, 3\]"):
        Instances(**fields, height=5, width=6)


def test_packed_masks_come_back_as_they_were() -> None:
    random = np.random.default_rng(0)
    masks = [random.random(shape) > 0.5 for shape in ((3, 5), (1, 1), (8, 8), (0, 0), (17, 2))]

    crops = MaskCrops.pack(masks)

    assert len(crops) == len(masks)
    for crop, mask in zip(crops, masks, strict=True):
        assert (crop.dtype, crop.shape) == (np.bool_, mask.shape)
        assert np.array_equal(crop, mask)
    assert np.array_equal(crops[-1], masks[-1])


def test_a_packed_mask_takes_an_eighth_of_its_pixels() -> None:
    crops = MaskCrops.pack(np.ones((1000, 1000), np.bool_) for _ in range(8))

    assert len(pickle.dumps(crops)) < 1_001_000
