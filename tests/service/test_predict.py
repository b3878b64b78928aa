import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pictures import astronaut

from service.errors import BadImageError
from service.predict import draw_answer, instances_of, predict_photos

SQUARE = {
    "box": {"topX": 0.25, "topY": 0.5, "bottomX": 0.75, "bottomY": 1.0},
    "label": "cat",
    "score": 0.8,
    "polygon": [[0.25, 0.5, 0.75, 0.5, 0.75, 1.0, 0.25, 1.0]],
}


def score_square(data: bytes) -> dict[str, Any]:
    if data == b"broken":
        raise BadImageError("the image is truncated or damaged")
    return {"boxes": [SQUARE]}


def write_photo(path: Path) -> Path:
    cv2.imwrite(str(path), astronaut()[:, :, ::-1])
    return path


def test_each_photo_gets_its_json_and_a_picture_of_the_same_size(tmp_path: Path) -> None:
    photos = [write_photo(tmp_path / name) for name in ("a.png", "b.jpg")]
    out = tmp_path / "new" / "out"

    results = list(predict_photos(photos, out, score_square, min_score=0.3, apply_exif=False))

    assert [result.photo for result in results] == photos
    assert sorted(path.name for path in out.iterdir()) == [
        "a.json",
        "a.overlay.jpg",
        "b.json",
        "b.overlay.jpg",
    ]
    assert json.loads((out / "a.json").read_text()) == {"boxes": [SQUARE]}
    assert cv2.imread(str(out / "b.overlay.jpg")).shape == (512, 512, 3)


def test_a_photo_that_cannot_be_scored_does_not_stop_the_others(tmp_path: Path) -> None:
    broken, missing = tmp_path / "broken.jpg", tmp_path / "missing.jpg"
    broken.write_bytes(b"broken")
    good = write_photo(tmp_path / "good.jpg")

    results = list(
        predict_photos(
            [broken, missing, good], tmp_path / "out", score_square, min_score=0, apply_exif=False
        )
    )

    assert [result.error for result in results] == [
        "the image is truncated or damaged",
        "No such file or directory",
        None,
    ]
    assert not (tmp_path / "out" / "broken.json").exists()


def test_photos_that_would_overwrite_each_other_are_refused(tmp_path: Path) -> None:
    photos = [tmp_path / "x" / "one.jpg", tmp_path / "y" / "one.png"]

    with pytest.raises(ValueError, match="two photos are named one"):
        list(predict_photos(photos, tmp_path, score_square, min_score=0, apply_exif=False))


def test_an_answer_is_read_back_into_the_pixels_it_came_from() -> None:
    instances, names = instances_of({"boxes": [SQUARE]}, height=20, width=40)

    expected = np.zeros((20, 40), bool)
    expected[10:20, 10:30] = True
    assert names == ["cat"]
    assert instances.boxes.tolist() == [[10, 10, 30, 20]]
    assert np.array_equal(instances.full_masks()[0], expected)


def test_coordinates_rounded_to_six_decimals_do_not_widen_a_box() -> None:
    third = {**SQUARE, "polygon": [[0.333333, 0.333333, 0.666667, 0.333333, 0.666667, 0.666667]]}

    instances, _ = instances_of({"boxes": [third]}, height=3000, width=3000)

    assert instances.boxes.tolist() == [[1000, 1000, 2000, 2000]]


def test_an_answer_without_instances_leaves_the_picture_as_it_is() -> None:
    assert np.array_equal(draw_answer(astronaut(), {"boxes": []}, 0.3), astronaut())


def test_a_polygon_that_leaves_the_image_is_cut_at_its_edge() -> None:
    large = {**SQUARE, "polygon": [[-0.5, 0.5, 1.25, 0.5, 1.25, 2.0, -0.5, 2.0]]}

    instances, _ = instances_of({"boxes": [large]}, height=20, width=40)

    expected = np.zeros((20, 40), bool)
    expected[10:] = True
    assert np.array_equal(instances.full_masks()[0], expected)


def test_an_instance_without_a_polygon_has_no_pixel() -> None:
    instances, _ = instances_of({"boxes": [{**SQUARE, "polygon": []}]}, height=20, width=40)

    assert instances.boxes.tolist() == [[0, 0, 0, 0]]
    assert not instances.full_masks().any()
