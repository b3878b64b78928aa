import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pictures import astronaut
from pycocotools import mask as rle

from model.evaluate import Picture, evaluate_coco, evaluate_detections
from model.structures import Instances
from service.client import Client, RefusedError, ScoreError
from service.evaluate import PICTURES_AT_ONCE, answer_detections, detect_by
from service.settings import Settings

SQUARE = {
    "box": {"topX": 0.2, "topY": 0.5, "bottomX": 0.8, "bottomY": 1.0},  # not the polygon's
    "label": "cat",
    "score": 0.8,
    "polygon": [[0.25, 0.5, 0.75, 0.5, 0.75, 1.0, 0.25, 1.0]],
}


def test_masks_are_filled_polygons_and_boxes_those_that_were_sent() -> None:
    second = {**SQUARE, "label": "dog", "score": 0.9, "polygon": [[0, 0, 0.5, 0, 0.5, 0.5, 0, 0.5]]}

    found = answer_detections({"boxes": [SQUARE, second]}, height=20, width=40)

    filled = np.zeros((2, 20, 40), dtype=bool)
    filled[0, 10:, 10:30] = True
    filled[1, :10, :20] = True
    assert found.labels == ["cat", "dog"]
    assert found.scores == pytest.approx([0.8, 0.9])
    assert found.boxes == pytest.approx(np.array([(8, 10, 32, 20)] * 2))
    assert np.array_equal([rle.decode(dict(mask)) for mask in found.masks], filled)


def test_a_ring_within_another_fills_it_in_as_azures_evaluation_does() -> None:
    hole = [0.4, 0.6, 0.6, 0.6, 0.6, 0.9, 0.4, 0.9]
    ring = {**SQUARE, "polygon": [*SQUARE["polygon"], hole]}

    found = answer_detections({"boxes": [ring]}, height=20, width=40)

    assert rle.decode(dict(found.masks[0])).sum() == 10 * 20


def test_nothing_found_is_no_detection() -> None:
    found = answer_detections({"boxes": []}, height=20, width=40)

    assert (found.labels, found.boxes.shape, found.masks) == ([], (0, 4), [])


@pytest.fixture
def data_set(tmp_path: Path) -> tuple[Path, Path]:
    """More photos than are asked for at once, each with an annotated person in the middle."""
    images, annotations = [], []
    for number in range(1, PICTURES_AT_ONCE + 3):
        width = 80 + number
        photo = astronaut()[:96, :width]
        cv2.imwrite(str(tmp_path / f"{number}.png"), photo)
        images.append({"id": number, "file_name": f"{number}.png", "height": 96, "width": width})
        box = [width // 4, 24, width // 2, 48]
        x1, y1, x2, y2 = box[0], box[1], box[0] + box[2], box[1] + box[3]
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
        )
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}]
    file = tmp_path / "instances.json"
    file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return tmp_path, file


def test_a_server_is_judged_like_the_model_that_it_runs(
    data_set: tuple[Path, Path], serve_in_thread: Callable, stages_dispatcher: Any
) -> None:
    stages = stages_dispatcher.stages

    def predict(images: Any) -> list[Instances]:
        return [i for image in images for i in stages.infer(stages.predictor.prepare([image]))]

    with serve_in_thread(Settings(), stages_dispatcher) as url, Client(url) as client:
        served = evaluate_detections(detect_by(client), *data_set, batch_size=PICTURES_AT_ONCE)

    names = stages.predictor.config.class_names
    own = evaluate_coco(predict, names, *data_set)
    assert own.mask.ap > 0.9
    assert served.mask == own.mask
    assert served.box.ap == pytest.approx(own.box.ap)
    assert served.voc == own.voc
    assert served.images == PICTURES_AT_ONCE + 2


def test_labels_that_are_no_category_count_in_azures_precision_alone(
    data_set: tuple[Path, Path],
) -> None:
    whole = {**SQUARE, "label": "horse"}

    report = evaluate_detections(
        lambda pictures: [
            answer_detections({"boxes": [whole]}, p.height, p.width) for p in pictures
        ],
        *data_set,
    )

    assert list(report.per_class) == ["person", "cat"]
    assert report.voc.per_label_metrics["horse"].precision == 0
    assert report.mask.ap == 0


class FakeClient:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def score(self, images: list[bytes]) -> list[Any]:
        if isinstance(self._answer, Exception):
            raise self._answer
        return [self._answer]


@pytest.mark.parametrize("error", [RefusedError("400: row 0"), ScoreError("503: not now")])
def test_a_picture_that_the_server_does_not_score_is_named(
    tmp_path: Path, error: ScoreError
) -> None:
    picture = Picture(tmp_path / "a.png", 10, 10)
    picture.path.write_bytes(b"")

    with pytest.raises(type(error), match=rf"a\.png: {error}"):
        detect_by(FakeClient(error))([picture])


@pytest.mark.parametrize(
    "box",
    [{}, {**SQUARE, "polygon": [[0.5]]}, {**SQUARE, "box": None}, {**SQUARE, "score": "high"}],
)
def test_an_answer_of_another_form_is_named(tmp_path: Path, box: dict[str, Any]) -> None:
    picture = Picture(tmp_path / "a.png", 10, 10)
    picture.path.write_bytes(b"")

    with pytest.raises(ScoreError, match=r"a\.png: no answer in Azure's form"):
        detect_by(FakeClient({"boxes": [box]}))([picture])


def test_a_picture_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read the image .*a\.png"):
        detect_by(FakeClient({"boxes": []}))([Picture(tmp_path / "a.png", 10, 10)])
