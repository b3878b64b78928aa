from collections.abc import Sequence

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle

from model.detections import RunLengths
from model.voc import UNDEFINED, Found, LabelMetrics, Truth, VocReport, voc_metrics

SIZE = (20, 30)
Box = tuple[int, int, int, int]  # half-open yyxx
Images = list[tuple[list[Truth], list[Found]]]


def mask(box: Box) -> RunLengths:
    frame = np.zeros(SIZE, dtype=np.uint8, order="F")
    frame[box[0] : box[1], box[2] : box[3]] = 1
    return rle.encode(frame)


def truth(label: str, *box: int, crowd: bool = False) -> Truth:
    return Truth(label, mask(box), crowd)


def found(label: str, score: float, *box: int) -> Found:
    return Found(label, mask(box), score)


def of_one(images: Images) -> LabelMetrics:
    return voc_metrics(images, ["cat"]).per_label_metrics["cat"]


def random_images(seed: int) -> Images:
    rng = np.random.default_rng(seed)

    def random_box() -> Box:
        y, x = rng.integers(0, (12, 20))
        return int(y), int(y + rng.integers(3, 9)), int(x), int(x + rng.integers(3, 11))

    images: Images = []
    for _ in range(6):
        boxes = [(str(rng.choice(["cat", "dog"])), random_box()) for _ in range(rng.integers(0, 6))]
        truths = [truth(label, *box, crowd=bool(rng.random() < 0.2)) for label, box in boxes]
        near = [
            found(label, float(rng.random()), *(box + np.repeat(rng.integers(0, 3, 2), 2)))
            for label, box in boxes * 2
        ]
        stray = [found("cat", float(rng.random()), *random_box())]
        images.append((truths, near + stray))
    return images


def loop_metrics(images: Images, label: str, iou: float, score: float) -> tuple[float, ...]:
    """The same from pixels, one detection after the other."""
    objects, verdicts = 0, []
    for truths, detections in images:
        areas = [(rle.decode(t.mask).astype(bool), t.crowd) for t in truths if t.label == label]
        objects += sum(not crowd for _, crowd in areas)
        taken = [False] * len(areas)
        mine = [d for d in detections if d.label == label and d.score >= score]
        for one in sorted(mine, key=lambda d: d.score, reverse=True):
            pixels = rle.decode(one.mask).astype(bool)
            best, best_iou = -1, -1.0
            for n, (area, crowd) in enumerate(areas):
                whole = pixels.sum() if crowd else (pixels | area).sum()
                overlap = (pixels & area).sum() / whole
                if overlap > best_iou:
                    best, best_iou = n, overlap
            if best < 0 or best_iou < iou:
                verdicts.append((one.score, "wrong"))
            elif areas[best][1]:
                verdicts.append((one.score, "neutral"))
            else:
                verdicts.append((one.score, "wrong" if taken[best] else "right"))
                taken[best] = True
    verdicts.sort(reverse=True)

    right, wrong, points = 0, 0, []
    for _, verdict in verdicts:
        right += verdict == "right"
        wrong += verdict == "wrong"
        points.append((right / objects, right / max(right + wrong, 1)))
    area, last_recall = 0.0, 0.0
    for n, (recall, _) in enumerate(points):
        area += (recall - last_recall) * max(precision for _, precision in points[n:])
        last_recall = recall
    return area, points[-1][1], points[-1][0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("iou", "score"), [(0.5, 0.3), (0.75, 0), (0.1, 0.6)])
def test_the_metrics_are_those_of_a_loop_over_pixels(seed: int, iou: float, score: float) -> None:
    images = random_images(seed)

    report = voc_metrics(images, ["cat", "dog"], iou_threshold=iou, score_threshold=score)

    expected = {label: loop_metrics(images, label, iou, score) for label in ("cat", "dog")}
    for label, metrics in report.per_label_metrics.items():
        assert (metrics.average_precision, metrics.precision, metrics.recall) == pytest.approx(
            expected[label]
        )
    means = np.mean(list(expected.values()), axis=0)
    assert [report.mean_average_precision, report.precision, report.recall] == pytest.approx(means)


def test_the_thresholds_are_azures_unless_given() -> None:
    images = [([truth("cat", 0, 10, 0, 10)], [found("cat", 0.3, 0, 10, 0, 5)])]
    below = [([truth("cat", 0, 10, 0, 10)], [found("cat", 0.29, 0, 10, 0, 10)])]

    assert of_one(images) == LabelMetrics(1, 1, 1)  # IoU 0.5 to the pixel
    assert of_one(below) == LabelMetrics(0, UNDEFINED, 0)


def test_a_detection_on_an_object_that_is_taken_is_wrong_though_another_is_free() -> None:
    objects = [truth("cat", 0, 10, 0, 10), truth("cat", 0, 10, 2, 12)]
    detections = [found("cat", 0.9, 0, 10, 0, 10), found("cat", 0.8, 0, 10, 0, 11)]

    assert of_one([(objects, detections)]) == LabelMetrics(0.5, 0.5, 0.5)


def test_on_a_crowd_region_a_detection_is_neither_right_nor_wrong() -> None:
    crowd = truth("cat", 0, 20, 0, 15, crowd=True)
    detections = [found("cat", 0.9, 0, 5, 0, 5), found("cat", 0.8, 0, 10, 20, 30)]

    assert of_one([([crowd, truth("cat", 0, 10, 20, 30)], detections)]) == LabelMetrics(1, 1, 1)
    assert of_one([([crowd, truth("cat", 0, 10, 20, 30)], detections[:1])]) == LabelMetrics(0, 0, 0)


@pytest.mark.parametrize(
    ("objects", "detections", "expected"),
    [
        ([], [], LabelMetrics(UNDEFINED, UNDEFINED, UNDEFINED)),
        ([], [found("cat", 0.9, 0, 5, 0, 5)], LabelMetrics(UNDEFINED, 0, UNDEFINED)),
        ([truth("cat", 0, 5, 0, 5)], [], LabelMetrics(0, UNDEFINED, 0)),
    ],
    ids=["nothing", "no object", "no detection"],
)
def test_what_cannot_be_measured_is_undefined(
    objects: Sequence[Truth], detections: Sequence[Found], expected: LabelMetrics
) -> None:
    assert of_one([(list(objects), list(detections))]) == expected


def test_means_leave_undefined_figures_out() -> None:
    images = [([truth("cat", 0, 5, 0, 5)], [found("cat", 0.9, 0, 5, 0, 5)])]

    report = voc_metrics(images, ["cat", "dog"])

    assert (report.mean_average_precision, report.precision, report.recall) == (1, 1, 1)


def test_without_anything_the_means_are_zero_as_azures_are() -> None:
    undefined = LabelMetrics(UNDEFINED, UNDEFINED, UNDEFINED)

    assert voc_metrics([], ["cat"]) == VocReport(0, 0, 0, {"cat": undefined}, 0.5, 0.3)
