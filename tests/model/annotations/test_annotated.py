from pathlib import Path

import pytest

from model.annotations.annotated import AnnotatedImage, AnnotationSet


def pictures(count: int) -> AnnotationSet:
    images = (AnnotatedImage(Path(str(n)), 1, 1, (), str(n)) for n in range(count))
    return AnnotationSet(("cat",), tuple(images))


def test_a_split_gives_each_picture_to_one_of_two_sets() -> None:
    first, second = pictures(10).split(0.2, seed=0)

    assert len(second.images) == 2
    assert sorted((*first.images, *second.images), key=lambda i: i.place) == list(
        pictures(10).images
    )
    assert first.class_names == second.class_names == ("cat",)


def test_a_seed_gives_the_same_split_and_another_another() -> None:
    first, again, other = (pictures(50).split(0.2, seed)[1] for seed in (1, 1, 2))

    assert first == again
    assert first != other


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 1), (0.99, 4)])
def test_neither_part_is_empty(fraction: float, count: int) -> None:
    assert len(pictures(5).split(fraction, 0)[1].images) == count


def test_one_picture_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="not enough pictures"):
        pictures(1).split(0.5, 0)
