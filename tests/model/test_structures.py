import numpy as np
import pytest

from model.structures import Instances


def three_instances() -> Instances:
    """An L, a single pixel in the corner and an empty mask, in a 5x6 image."""
    return Instances(
        scores=np.array([0.9, 0.5, 0.25], np.float32),
        labels=np.array([1, 0, 1], np.int64),
        boxes=np.array([(1, 1, 3, 4), (5, 4, 6, 5), (0, 0, 0, 0)], np.int64),
        masks=(
            np.array([(1, 0), (1, 0), (1, 1)], np.bool_),
            np.ones((1, 1), np.bool_),
            np.zeros((0, 0), np.bool_),
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
    fields[field] = fields[field][:2]

    with pytest.raises(ValueError, match=r"equally many of each field, got \[2, 3\]"):
        Instances(**fields, height=5, width=6)
