import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from model.config import PreprocessConfig, SOLOv2Config
from model.preprocess import preprocess
from model.training.augment import (
    Augment,
    Collate,
    blank_sample,
    crop,
    mask_boxes,
    resize,
)
from model.training.config import AugmentConfig
from model.training.dataset import Sample


def white_ellipses(height: int = 90, width: int = 120) -> Sample:
    """A black picture with two white objects, so that the picture shows where the masks are."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    masks = torch.stack(
        [
            (y - 30) ** 2 / 400 + (x - 35) ** 2 / 900 < 1,
            (y - 60) ** 2 / 500 + (x - 85) ** 2 / 600 < 1,
        ]
    )
    pixels = (masks.any(0) * 255).byte().expand(3, -1, -1)
    return Sample(tv_tensors.Image(pixels), tv_tensors.Mask(masks), torch.tensor([0, 1]))


def assert_aligned(sample: Sample) -> None:
    """Off the edges, the picture is white inside the masks and black outside."""
    brightness = sample.image[0].as_subclass(Tensor)
    inside = sample.masks.as_subclass(Tensor).any(0)
    assert inside[brightness == 255].all()
    assert not inside[brightness == 0].any()
    # An edge runs where the brightness is one half: whatever is off by half a pixel shows.
    assert ((brightness > 127) == inside).float().mean() > 0.98


@pytest.mark.parametrize("seed", range(12))
def test_masks_stay_on_their_objects(seed: int) -> None:
    torch.manual_seed(seed)

    sample = Augment(AugmentConfig(colour=0, crop=1, crop_visible=0, flip=0.5, blank=0))(
        white_ellipses(), 64, 100
    )

    assert len(sample.labels) == len(sample.masks) > 0
    assert_aligned(sample)


def test_half_of_the_pictures_are_flipped() -> None:
    torch.manual_seed(0)
    sample = white_ellipses()
    augment = Augment(AugmentConfig(colour=0, crop=0, flip=0.5))

    results = [augment(sample, 90, 120) for _ in range(40)]

    flipped = [torch.equal(r.masks, sample.masks.flip(-1)) for r in results]
    kept = [torch.equal(r.masks, sample.masks) for r in results]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 10 < sum(flipped) < 30


def test_colours_change_and_masks_do_not() -> None:
    torch.manual_seed(0)
    grey = white_ellipses()
    grey = Sample(tv_tensors.Image(torch.full_like(grey.image, 90)), grey.masks, grey.labels)

    sample = Augment(AugmentConfig(colour=1, crop=0, flip=0))(grey, 90, 120)

    assert not torch.equal(sample.image, grey.image)
    assert torch.equal(sample.masks, grey.masks)
    assert sample.image.dtype == torch.uint8


@pytest.mark.parametrize(
    ("size", "wanted"), [((90, 120), (60, 80)), ((120, 90), (80, 60)), ((50, 200), (25, 100))]
)
def test_the_resized_picture_fits_both_sides(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    sample = resize(white_ellipses(*size), 60, 100)

    assert tuple(sample.image.shape[-2:]) == wanted
    assert tuple(sample.masks.shape[-2:]) == wanted


def test_a_crop_keeps_the_aspect_ratio_and_forgets_what_is_hardly_seen() -> None:
    torch.manual_seed(1)
    original = white_ellipses()
    areas = original.masks.sum((1, 2))

    for _ in range(30):
        sample = crop(original, 0.5, 0.4)

        height, width = sample.image.shape[-2:]
        assert 45 <= height <= 90
        assert abs(width - height * 4 / 3) <= 1
        for label in (0, 1):
            visible = sample.image[0] > 0
            seen = sample.masks[sample.labels == label]
            assert len(seen) <= 1
            if len(seen):
                assert seen[0].sum() >= 0.4 * areas[label]
                assert visible[seen[0]].all()


def test_objects_that_a_crop_misses_are_dropped() -> None:
    torch.manual_seed(2)

    kept = [len(crop(white_ellipses(), 0.3, 0.3).labels) for _ in range(30)]

    assert min(kept) < 2 <= max(kept)


def test_objects_that_shrink_to_nothing_are_dropped() -> None:
    sample = white_ellipses()
    sample.masks[0] = False
    sample.masks[0, 3, 3] = True

    result = Augment(AugmentConfig(crop=0, flip=0))(sample, 9, 12)

    assert result.labels.tolist() == [1]


def test_a_blank_picture_has_no_objects_and_is_smooth() -> None:
    torch.manual_seed(0)
    plain = 0
    for _ in range(20):
        sample = blank_sample(white_ellipses())

        assert sample.image.shape == (3, 90, 120)
        assert sample.masks.shape == (0, 90, 120)
        assert sample.labels.shape == (0,)
        steps = sample.image.int().diff(dim=-1).abs().amax()
        assert steps <= 8
        plain += int(sample.image.flatten(1).unique(dim=1).shape[1] == 1)
    assert 4 < plain < 16


def test_blank_pictures_come_as_often_as_asked_for() -> None:
    torch.manual_seed(0)
    augment = Augment(AugmentConfig(blank=0.3, crop=0))

    blank = sum(len(augment(white_ellipses(), 32, 64).labels) == 0 for _ in range(60))

    assert 8 < blank < 30


def test_a_picture_without_objects_passes_through() -> None:
    sample = blank_sample(white_ellipses())

    result = Augment(AugmentConfig(crop=1, flip=1, colour=1))(sample, 64, 100)

    assert result.masks.shape[0] == 0
    assert result.masks.shape[1:] == result.image.shape[1:]


def test_a_batch_is_normalised_as_in_preprocessing_and_padded_with_zeros() -> None:
    config = SOLOv2Config(preprocess=PreprocessConfig(short_side=90, long_side=120))
    wide, tall = white_ellipses(90, 120), white_ellipses(120, 70)

    batch = Collate(config)([wide, tall])

    assert batch.images.shape == (2, 3, 128, 128)
    served = preprocess([wide.image.permute(1, 2, 0).numpy()], config.preprocess).pixels[0]
    assert torch.equal(batch.images[0, :, :96], served)
    assert not batch.images[1, :, 120:].any()
    assert not batch.images[1, :, :, 70:].any()


def test_the_targets_of_a_batch_refer_to_the_common_canvas() -> None:
    wide, tall = white_ellipses(90, 120), white_ellipses(120, 70)

    targets = Collate(SOLOv2Config())([wide, tall]).targets

    assert targets.masks.shape == (4, 32, 32)
    assert targets.masks_per_image == (2, 2)
    assert targets.labels.shape == (2, 3872)
    assert targets.num_positives > 0


def test_boxes_are_half_open_around_the_masks() -> None:
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 2:5, 1:8] = True
    masks[1, 5, 0] = True

    boxes = mask_boxes(masks)

    assert boxes[0].tolist() == [1, 2, 8, 5]
    assert boxes[1].tolist() == [0, 5, 1, 6]
    assert (boxes[2, 2] - boxes[2, 0]) * (boxes[2, 3] - boxes[2, 1]) == 0
    assert mask_boxes(masks[:0]).shape == (0, 4)
