import numpy as np
import pytest

from model.panoptic import PanopticMap, panoptic_map
from model.structures import Instances

SIZE = (40, 60)


def random_instances(count: int, seed: int) -> Instances:
    """Rectangles with holes that overlap a lot, in no order; one has no pixel."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *SIZE), dtype=np.bool_)
    for mask in masks[: count - 1]:
        y1, x1 = rng.integers(0, (30, 50))
        height, width = rng.integers(2, 25, 2)
        mask[y1 : y1 + height, x1 : x1 + width] = (
            rng.random(mask[y1:][:height, x1:][:, :width].shape) > 0.2
        )
    return Instances.from_full_masks(
        rng.uniform(0.3, 1, count).astype(np.float32), rng.integers(0, 3, count), masks
    )


def loop_panoptic(
    instances: Instances, min_score: float, min_visible: float
) -> tuple[np.ndarray, list[int]]:
    """Pixel by pixel: which instance each belongs to, or -1, and who is left, best first."""
    masks = instances.full_masks()
    owner = np.full(SIZE, -1)
    kept = []
    for n in sorted(range(len(instances)), key=lambda n: -instances.scores[n]):
        pixels = [(y, x) for y in range(SIZE[0]) for x in range(SIZE[1]) if masks[n, y, x]]
        free = [pixel for pixel in pixels if owner[pixel] == -1]
        if instances.scores[n] < min_score or not free or len(free) / len(pixels) < min_visible:
            continue
        kept.append(n)
        for pixel in free:
            owner[pixel] = n
    return owner, kept


def decoded(rgb: np.ndarray) -> np.ndarray:
    """COCO's rule, as its tools read a PNG."""
    red, green, blue = np.moveaxis(rgb.astype(np.int64), 2, 0)
    return red + 256 * green + 256**2 * blue


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("min_score", "min_visible"), [(0.5, 0.5), (0, 0), (0.6, 0.9)])
def test_each_pixel_goes_to_the_best_instance_that_stays(
    seed: int, min_score: float, min_visible: float
) -> None:
    instances = random_instances(12, seed)

    found = panoptic_map(instances, min_score=min_score, min_visible=min_visible)

    owner, kept = loop_panoptic(instances, min_score, min_visible)
    assert [segment.label for segment in found.segments] == instances.labels[kept].tolist()
    assert [segment.score for segment in found.segments] == instances.scores[kept].tolist()
    for segment, n in zip(found.segments, kept, strict=True):
        assert np.array_equal(found.ids == segment.id, owner == n)
    assert np.array_equal(found.ids == 0, owner == -1)
    assert 1 < len(kept) < 12


@pytest.mark.parametrize("seed", range(3))
def test_area_and_box_are_those_of_the_pixels_left_to_a_segment(seed: int) -> None:
    found = panoptic_map(random_instances(12, seed), min_score=0)

    for segment in found.segments:
        rows, columns = np.nonzero(found.ids == segment.id)
        assert segment.area == len(rows)
        assert segment.box == (
            columns.min(),
            rows.min(),
            columns.max() + 1,
            rows.max() + 1,
        )


def test_the_picture_decodes_back_to_the_ids() -> None:
    found = panoptic_map(random_instances(12, seed=0), min_score=0)

    rgb = found.to_rgb()

    assert rgb.dtype == np.uint8
    assert np.array_equal(decoded(rgb), found.ids)
    assert found.ids.max() > 256**2


def test_every_byte_of_an_id_has_its_place() -> None:
    found = PanopticMap(np.array([[0x030201, 0xFFFFFF, 0]], dtype=np.int32), ())

    assert found.to_rgb().tolist() == [[[1, 2, 3], [255, 255, 255], [0, 0, 0]]]


def test_a_thousand_segments_have_a_thousand_ids_that_fit_a_picture() -> None:
    masks = np.zeros((1000, 1, 1000), dtype=np.bool_)
    masks[range(1000), 0, range(1000)] = True
    scores = np.linspace(1, 0.5, 1000, dtype=np.float32)
    instances = Instances.from_full_masks(scores, np.zeros(1000, np.int64), masks)

    found = panoptic_map(instances)

    assert len({segment.id for segment in found.segments}) == 1000
    assert all(0 < segment.id < 256**3 for segment in found.segments)


def test_an_image_without_instances_is_unlabelled() -> None:
    none = Instances.from_full_masks(
        np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros((0, *SIZE), np.bool_)
    )

    found = panoptic_map(none)

    assert found.segments == ()
    assert found.ids.shape == SIZE
    assert not found.ids.any()
