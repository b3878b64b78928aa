from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from model.draw import draw_instances
from model.structures import Instances, MaskCrops

GREY = 100
ORANGE, SKY_BLUE, GREEN = (230, 159, 0), (86, 180, 233), (0, 158, 115)
NAMES = ("person", "cat")


def grey(height: int = 200, width: int = 300) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), GREY, np.uint8)


def rectangles(*boxes: tuple[int, int, int, int], height: int = 200, width: int = 300) -> Instances:
    """Filled boxes with scores 0.9, 0.8, 0.7 ..."""
    return Instances(
        scores=np.array([0.9 - 0.1 * n for n in range(len(boxes))], np.float32),
        labels=np.array([n % 2 for n in range(len(boxes))], np.int64),
        boxes=np.array(boxes, np.int64).reshape(-1, 4),
        masks=MaskCrops.pack(np.ones((y2 - y1, x2 - x1), np.bool_) for x1, y1, x2, y2 in boxes),
        height=height,
        width=width,
    )


def changed(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    return (picture != GREY).any(axis=2)


def test_no_instances_give_an_equal_copy() -> None:
    image = grey()

    picture = draw_instances(image, rectangles(), NAMES)

    assert (picture == image).all()
    assert not np.shares_memory(picture, image)


def test_the_given_image_is_left_alone() -> None:
    image = grey()

    draw_instances(image, rectangles((50, 60, 150, 160)), NAMES)

    assert (image == GREY).all()


def test_the_mask_is_tinted_and_the_rest_of_the_picture_stays() -> None:
    picture = draw_instances(grey(), rectangles((100, 80, 200, 180)), NAMES)

    touched = changed(picture)
    assert picture.dtype == np.uint8
    assert touched[80:180, 100:200].all()
    assert not touched[182:].any()
    assert not touched[:, :98].any()
    assert not touched[:, 202:].any()
    inside = picture[130, 150].astype(int)
    assert inside[0] - inside[2] > 50  # the first colour is orange
    assert (np.abs(inside - GREY) < 100).all()  # the picture shines through


def test_a_mask_is_tinted_only_where_it_is_true() -> None:
    ring = np.ones((100, 100), np.bool_)
    ring[20:80, 20:80] = False
    instances = replace(rectangles((100, 80, 200, 180)), masks=MaskCrops.pack([ring]))

    picture = draw_instances(grey(), instances, NAMES)

    assert not changed(picture)[105:155, 125:175].any()


def test_a_small_instance_lies_over_a_large_one_whatever_its_rank() -> None:
    large, small = (20, 40, 280, 190), (130, 100, 160, 130)

    best_small = draw_instances(grey(), rectangles(small, large), NAMES)
    best_large = draw_instances(grey(), rectangles(large, small), NAMES)

    assert (best_small[129, 145] == ORANGE).all()  # its outline, not tinted by the other
    assert (best_large[129, 145] == SKY_BLUE).all()


def test_neighbours_in_rank_have_colours_of_their_own() -> None:
    boxes = [(40 * n + 5, 100, 40 * n + 35, 130) for n in range(7)]

    picture = draw_instances(grey(), rectangles(*boxes), NAMES)

    colours = {tuple(picture[115, 40 * n + 20]) for n in range(7)}
    assert len(colours) == 7


def test_low_scores_are_left_out_and_the_others_keep_their_colours() -> None:
    instances = rectangles((20, 60, 100, 140), (160, 60, 240, 140))

    every = draw_instances(grey(), instances, NAMES)
    best = draw_instances(grey(), instances, NAMES, min_score=0.85)

    assert (every[60:140, 20:100] == best[60:140, 20:100]).all()
    assert changed(every)[60:140, 160:240].all()
    assert not changed(best)[:, 150:].any()


def test_the_label_names_the_class() -> None:
    box = (60, 80, 240, 180)

    person = draw_instances(grey(), rectangles(box), ("person", "cat"))
    horse = draw_instances(grey(), rectangles(box), ("horse", "cat"))

    assert (person[:80] != horse[:80]).any()
    assert (person[82:] == horse[82:]).all()


@pytest.mark.parametrize("neighbours", [2, 3])
def test_labels_of_close_boxes_do_not_cover_each_other(neighbours: int) -> None:
    colours = (ORANGE, SKY_BLUE, GREEN)[:neighbours]
    boxes = [(60 + n, 60, 130 + n, 110) for n in range(neighbours)]

    picture = draw_instances(grey(), rectangles(*boxes), NAMES)

    visible = [int((picture == colour).all(axis=2).sum()) for colour in colours]
    assert min(visible) > 400


def test_where_labels_must_overlap_the_best_score_stays_readable() -> None:
    box = (60, 60, 130, 110)

    crowd = draw_instances(grey(), rectangles(box, box, box, box), NAMES)
    alone = draw_instances(grey(), rectangles(box), NAMES)

    assert (crowd[:59] == alone[:59]).all()


def test_a_label_without_room_above_goes_inside_the_box() -> None:
    picture = draw_instances(grey(), rectangles((50, 6, 200, 150)), NAMES)

    assert not changed(picture)[:5].any()
    assert (picture[7:20, 51:100] == ORANGE).all(axis=2).mean() > 0.5


def test_text_contrasts_with_its_plate() -> None:
    boxes = [(40 * n + 5, 100, 40 * n + 35, 130) for n in range(7)]

    picture = draw_instances(grey(), rectangles(*boxes), ("X", "X"))

    labels = picture[70:98]
    orange, blue = labels[:, 5:35], labels[:, 245:275]
    assert (orange.max(axis=2) < 60).any()
    assert (blue.min(axis=2) > 200).any()
    assert not (blue.max(axis=2) < 60).any()


@pytest.mark.parametrize(
    "box",
    [(0, 0, 300, 200), (0, 0, 1, 1), (299, 199, 300, 200), (0, 150, 40, 200), (280, 0, 300, 30)],
    ids=["everything", "first pixel", "last pixel", "bottom left", "top right"],
)
def test_instances_at_the_edge_of_the_frame_get_their_label_inside_it(
    box: tuple[int, int, int, int],
) -> None:
    name = "a rather long class name"

    picture = draw_instances(grey(), rectangles(box), (name, "cat"))

    plate = (picture == ORANGE).all(axis=2)
    assert plate.sum() > 1000


@pytest.mark.parametrize("size", [(1, 1), (8, 6), (3, 500)])
def test_tiny_pictures_can_be_drawn_on(size: tuple[int, int]) -> None:
    height, width = size

    picture = draw_instances(
        grey(height, width), rectangles((0, 0, width, height), height=height, width=width), NAMES
    )

    assert picture.shape == (height, width, 3)


def test_lines_and_labels_grow_with_the_picture() -> None:
    def label_height(scale: int) -> int:
        box = (60 * scale, 80 * scale, 200 * scale, 180 * scale)
        size = {"height": 200 * scale, "width": 300 * scale}
        picture = draw_instances(grey(**size), rectangles(box, **size), NAMES)
        return int(changed(picture)[: 79 * scale, 61 * scale].sum())

    assert label_height(10) > 3 * label_height(1)


def test_an_instance_without_a_pixel_is_not_drawn() -> None:
    nothing = Instances(
        scores=np.ones(1, np.float32),
        labels=np.zeros(1, np.int64),
        boxes=np.zeros((1, 4), np.int64),
        masks=MaskCrops.pack([np.zeros((0, 0), np.bool_)]),
        height=200,
        width=300,
    )

    assert not changed(draw_instances(grey(), nothing, NAMES)).any()


def test_instances_of_another_picture_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image is 300x200 pixels, .* one of 200x300"):
        draw_instances(grey(), rectangles(height=300, width=200), NAMES)
