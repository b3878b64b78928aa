import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model.structures import Instances, MaskCrops
from service.worker.encode import encode_instances

CLASSES = ("person", "traffic light")


def instances(*masks: np.ndarray, scores: list[float], labels: list[int]) -> Instances:
    """Instances from full-frame masks."""
    boxes, crops = [], []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
        boxes.append(box)
        crops.append(mask[box[1] : box[3], box[0] : box[2]])
    return Instances(
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        np.array(boxes, np.int64).reshape(-1, 4),
        MaskCrops.pack(crops),
        100,
        200,
    )


def frame(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((100, 200), np.bool_)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return mask


def disc(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[:100, :200]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def encoded(found: Instances, tolerance_px: float = 0.75) -> list[dict[str, Any]]:
    return json.loads(encode_instances(found, CLASSES, tolerance_px=tolerance_px))["boxes"]


def test_a_rectangle_is_written_exactly_as_azures_clients_know_it() -> None:
    found = instances(frame((20, 10, 60, 30)), scores=[0.9], labels=[1])

    text = encode_instances(found, CLASSES, tolerance_px=0.75)

    assert text.startswith(
        b'{"boxes":[{"box":{"topX":0.1,"topY":0.1,"bottomX":0.3,"bottomY":0.3},'
        b'"label":"traffic light","score":0.8999999761581421,"polygon":[['
    )
    (ring,) = json.loads(text)["boxes"][0]["polygon"]
    corners = {*zip(ring[::2], ring[1::2], strict=True)}
    assert corners == {(0.1, 0.1), (0.3, 0.1), (0.3, 0.3), (0.1, 0.3)}


def test_nothing_found_is_an_empty_list() -> None:
    found = instances(scores=[], labels=[])

    assert encode_instances(found, CLASSES, tolerance_px=0.75) == b'{"boxes":[]}'


def test_instances_keep_their_order() -> None:
    found = instances(
        frame((0, 0, 9, 9)), frame((50, 50, 90, 90)), scores=[0.9, 0.4], labels=[0, 1]
    )

    written = encoded(found)

    assert [one["label"] for one in written] == ["person", "traffic light"]
    assert [one["score"] for one in written] == sorted(
        (float(score) for score in found.scores), reverse=True
    )


def test_an_instance_with_an_empty_mask_is_left_out() -> None:
    found = instances(frame(), frame((5, 5, 20, 20)), scores=[0.9, 0.8], labels=[0, 1])

    assert [one["label"] for one in encoded(found)] == ["traffic light"]


def test_the_first_ring_is_the_largest() -> None:
    found = instances(frame((0, 90, 8, 98), (50, 10, 150, 60)), scores=[0.9], labels=[0])

    first, second = encoded(found)[0]["polygon"]

    assert min(first[::2]) == 0.25
    assert max(second[::2]) == 0.04


@pytest.mark.parametrize("tolerance_px", [0, 0.75, 4])
def test_the_box_encloses_exactly_the_rings_that_are_sent(tolerance_px: float) -> None:
    found = instances(disc(70, 50, 33) | disc(150, 40, 7), scores=[0.9], labels=[0])

    (written,) = encoded(found, tolerance_px)

    x = [value for ring in written["polygon"] for value in ring[::2]]
    y = [value for ring in written["polygon"] for value in ring[1::2]]
    assert written["box"] == {
        "topX": min(x),
        "topY": min(y),
        "bottomX": max(x),
        "bottomY": max(y),
    }


def test_a_mask_that_fills_the_image_spans_from_zero_to_one() -> None:
    found = instances(frame((0, 0, 200, 100)), scores=[0.9], labels=[0])

    assert encoded(found)[0]["box"] == {"topX": 0, "topY": 0, "bottomX": 1, "bottomY": 1}


def test_coordinates_have_at_most_six_decimals_and_rings_at_least_three_points() -> None:
    found = replace(instances(disc(99, 49, 40), scores=[1 / 3], labels=[0]), height=107, width=211)

    (written,) = encoded(found)

    for ring in written["polygon"]:
        assert len(ring) >= 6
        assert len(ring) % 2 == 0
        assert all(value == round(value, 6) and 0 <= value <= 1 for value in ring)
    assert written["score"] == float(np.float32(1 / 3))
