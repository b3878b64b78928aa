import contextlib
import io
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from model.average_precision import AveragePrecision
from model.evaluate import CocoReport, evaluate_coco
from model.structures import BoolMask, Instances, MaskCrops

CLASS_NAMES = ("cat", "person")  # not in the order of the category ids
CATEGORIES = [
    {"id": 3, "name": "person"},
    {"id": 7, "name": "tree"},
    {"id": 9, "name": "cat"},
]
SIZE = (120, 160)
Found = list[tuple[str, float, BoolMask]]


def ellipse(x: int, y: int, rx: int, ry: int, size: tuple[int, int] = SIZE) -> BoolMask:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return ((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2 <= 1


def blob(rng: np.random.Generator) -> BoolMask:
    x, y, rx, ry = rng.integers((10, 10, 4, 4), (150, 110, 40, 40))
    return ellipse(x, y, rx, ry)


def annotation(
    number: int, image: int, category: int, mask: BoolMask, crowd: int = 0
) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
        "area": int(mask.sum()),
        "bbox": rle.toBbox(encoded).tolist(),
        "iscrowd": crowd,
    }


def to_instances(found: Found, size: tuple[int, int] = SIZE) -> Instances:
    boxes, crops = [], []
    for _, _, mask in found:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        boxes.append(box)
        crops.append(mask[box[1] : box[3], box[0] : box[2]])
    return Instances(
        scores=np.array([score for _, score, _ in found], dtype=np.float32),
        labels=np.array([CLASS_NAMES.index(name) for name, _, _ in found], dtype=np.int64),
        boxes=np.array(boxes, dtype=np.int64).reshape(-1, 4),
        masks=MaskCrops.pack(crops),
        height=size[0],
        width=size[1],
    )


class DataSet:
    """Pictures whose grey level is their id, so that a fake model knows which one it sees."""

    def __init__(self, folder: Path, truth: dict[int, list[dict[str, Any]]]) -> None:
        self.images = folder / "images"
        self.annotations = folder / "instances.json"
        self.truth = truth
        self.images.mkdir()
        for image in truth:
            cv2.imwrite(str(self.images / f"{image}.png"), np.full((*SIZE, 3), image, np.uint8))
        self.write(truth)

    def write(self, truth: dict[int, list[dict[str, Any]]]) -> None:
        images = [
            {"id": image, "file_name": f"{image}.png", "height": SIZE[0], "width": SIZE[1]}
            for image in truth
        ]
        everything = list(itertools.chain.from_iterable(truth.values()))
        self.annotations.write_text(
            json.dumps({"images": images, "annotations": everything, "categories": CATEGORIES})
        )

    def evaluate(self, found: dict[int, Found], **options: Any) -> CocoReport:
        return evaluate_coco(
            lambda pixels: [to_instances(found.get(int(image[0, 0, 0]), [])) for image in pixels],
            CLASS_NAMES,
            self.images,
            self.annotations,
            **options,
        )


@pytest.fixture
def shapes() -> dict[int, Found]:
    """Three images; objects of every size class, one class absent from the last."""
    return {
        5: [("person", 1.0, ellipse(50, 60, 45, 55)), ("cat", 1.0, ellipse(130, 40, 20, 30))],
        6: [("person", 1.0, ellipse(30, 30, 8, 10)), ("cat", 1.0, ellipse(110, 80, 40, 25))],
        7: [("person", 1.0, ellipse(80, 60, 60, 50)), ("person", 1.0, ellipse(10, 100, 8, 12))],
    }


@pytest.fixture
def dataset(tmp_path: Path, shapes: dict[int, Found]) -> DataSet:
    ids = {"person": 3, "cat": 9}
    numbers = iter(range(100))  # from 0 on, as some exporters number them
    return DataSet(
        tmp_path,
        {
            image: [annotation(next(numbers), image, ids[name], mask) for name, _, mask in found]
            for image, found in shapes.items()
        },
    )


def shifted(shapes: dict[int, Found], seed: int) -> dict[int, Found]:
    """The same objects moved, with random scores, some lost and some found twice."""
    rng = np.random.default_rng(seed)
    found: dict[int, Found] = {}
    for image, objects in shapes.items():
        drawn = [
            (name, float(rng.uniform(0.05, 0.95)), np.roll(mask, rng.integers(-7, 8, 2), (0, 1)))
            for name, _, mask in objects
            for _ in range(rng.integers(0, 4))
        ]
        found[image] = sorted(drawn, key=lambda item: -item[1])
    return found


def by_pycocotools(
    dataset: DataSet, found: dict[int, Found], kind: str, category_ids: Sequence[int]
) -> list[float]:
    """The twelve numbers that the original tool prints, in its order."""
    results = []
    for image, objects in found.items():
        for name, score, mask in objects:
            encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
            result = {
                "image_id": image,
                "category_id": {"person": 3, "cat": 9}[name],
                "score": float(np.float32(score)),
            }
            shape = (
                {"segmentation": encoded}
                if kind == "segm"
                else {"bbox": rle.toBbox(encoded).tolist()}
            )
            results.append(result | shape)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(dataset.annotations)
        for number, item in enumerate(truth.dataset["annotations"], start=1):
            item["id"] = number
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.params.catIds = list(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(number) for number in evaluation.stats]


def numbers(precision: AveragePrecision) -> list[float]:
    """In pycocotools' order, which is that of the fields."""
    return list(astuple(precision))


def test_perfect_predictions_score_one(dataset: DataSet, shapes: dict[int, Found]) -> None:
    report = dataset.evaluate(shapes)

    ar1 = (3 / 4 + 2 / 2) / 2  # one picture holds two people
    assert numbers(report.mask) == pytest.approx([1] * 6 + [ar1] + [1] * 5)
    assert numbers(report.box) == pytest.approx([1] * 6 + [ar1] + [1] * 5)
    assert report.mask_ap == report.mask.ap
    assert report.box_ap == report.box.ap
    assert report.images == 3


@pytest.mark.parametrize("seed", range(5))
def test_the_numbers_are_those_of_pycocotools(
    dataset: DataSet, shapes: dict[int, Found], seed: int
) -> None:
    found = shifted(shapes, seed)

    report = dataset.evaluate(found)

    for kind, ours in (("segm", report.mask), ("bbox", report.box)):
        expected = by_pycocotools(dataset, found, kind, [3, 9])
        assert numbers(ours) == pytest.approx(expected, abs=1e-9)
    assert 0 < report.mask.ap < 1


def test_crowds_ties_and_more_than_a_hundred_detections_change_nothing_in_that(
    dataset: DataSet,
) -> None:
    rng = np.random.default_rng(0)
    ids = {"person": 3, "cat": 9}
    truth: dict[int, list[dict[str, Any]]] = {}
    found: dict[int, Found] = {}
    for image in (5, 6, 7):
        objects = [(str(rng.choice(["person", "cat"])), blob(rng)) for _ in range(12)]
        truth[image] = [
            annotation(100 * image + n, image, ids[name], mask, crowd=int(n % 6 == 0))
            for n, (name, mask) in enumerate(objects)
        ]
        near = [
            (name, float(rng.integers(1, 6)) / 5, np.roll(mask, rng.integers(-4, 5, 2), (0, 1)))
            for name, mask in objects * 10
        ]
        found[image] = sorted(near, key=lambda item: -item[1])
    dataset.write(truth)

    report = dataset.evaluate(found)

    for kind, ours in (("segm", report.mask), ("bbox", report.box)):
        expected = by_pycocotools(dataset, found, kind, [3, 9])
        assert numbers(ours) == pytest.approx(expected, abs=1e-9)
    assert 0 < report.mask.ar1 < report.mask.ar10 < report.mask.ar100


def test_each_class_is_scored_on_its_own(dataset: DataSet, shapes: dict[int, Found]) -> None:
    found = shifted(shapes, seed=1)

    report = dataset.evaluate(found)

    assert list(report.per_class) == ["cat", "person"]
    for name, category in (("cat", 9), ("person", 3)):
        theirs = by_pycocotools(dataset, found, "segm", [category])
        assert numbers(report.per_class[name].mask) == pytest.approx(theirs, abs=1e-9)
        theirs = by_pycocotools(dataset, found, "bbox", [category])
        assert numbers(report.per_class[name].box) == pytest.approx(theirs, abs=1e-9)


def test_finding_nothing_scores_zero(dataset: DataSet) -> None:
    report = dataset.evaluate({})

    assert report.mask.ap == 0
    assert report.box.ap == 0
    assert report.mask.ar100 == 0


def test_a_size_or_class_without_ground_truth_is_minus_one(dataset: DataSet) -> None:
    dataset.write({5: [annotation(1, 5, 3, ellipse(60, 60, 50, 50))]})

    report = dataset.evaluate({5: [("person", 0.5, ellipse(60, 60, 50, 50))]})

    assert report.mask.ap == pytest.approx(1)  # the class without ground truth does not count
    assert report.mask.ap_small == -1
    assert report.per_class["cat"].mask.ap == -1


def test_a_class_that_the_annotations_lack_is_named(dataset: DataSet) -> None:
    with pytest.raises(ValueError, match=r"no category dog; they have person, tree, cat"):
        evaluate_coco(lambda _: [], ("cat", "dog"), dataset.images, dataset.annotations)


def test_categories_that_the_model_does_not_know_are_left_out(
    dataset: DataSet, shapes: dict[int, Found]
) -> None:
    tree = annotation(50, 5, 7, ellipse(80, 100, 20, 15))
    dataset.write(dataset.truth | {5: [*dataset.truth[5], tree]})

    report = dataset.evaluate(shapes)

    assert report.mask.ap == pytest.approx(1)


def test_detections_inside_a_crowd_are_neither_right_nor_wrong(
    dataset: DataSet, shapes: dict[int, Found]
) -> None:
    crowd = annotation(50, 7, 9, ellipse(120, 60, 35, 50), crowd=1)
    dataset.write(dataset.truth | {7: [*dataset.truth[7], crowd]})
    in_crowd: Found = [("cat", 0.99, ellipse(110 + 8 * n, 60, 10, 20)) for n in range(3)]
    found = shapes | {7: [*shapes[7], *in_crowd]}

    report = dataset.evaluate(found)

    assert report.mask.ap == pytest.approx(1)
    assert report.box.ap == pytest.approx(1)
    assert numbers(report.mask) == pytest.approx(by_pycocotools(dataset, found, "segm", [3, 9]))


def test_an_empty_mask_is_a_wrong_detection(dataset: DataSet, shapes: dict[int, Found]) -> None:
    crop = np.zeros((0, 0), dtype=np.bool_)
    perfect = to_instances(shapes[5])
    with_empty = Instances(
        scores=np.append(np.float32(1), perfect.scores),
        labels=np.append(0, perfect.labels),
        boxes=np.concatenate([np.zeros((1, 4), np.int64), perfect.boxes]),
        masks=MaskCrops.pack([crop, *perfect.masks]),
        height=SIZE[0],
        width=SIZE[1],
    )

    report = evaluate_coco(
        lambda _: [with_empty], CLASS_NAMES, dataset.images, dataset.annotations, limit=1
    )

    assert report.per_class["cat"].mask.ap == pytest.approx(0.5)
    assert report.per_class["person"].mask.ap == pytest.approx(1)


def test_a_limit_takes_the_first_images_and_their_ground_truth_only(
    dataset: DataSet, shapes: dict[int, Found]
) -> None:
    report = dataset.evaluate({5: shapes[5], 6: shapes[6]}, limit=2)

    assert report.images == 2
    assert report.mask.ap == pytest.approx(1)


def test_batches_hold_the_images_in_order_and_progress_counts_them(
    dataset: DataSet, shapes: dict[int, Found]
) -> None:
    sizes: list[list[int]] = []
    seen: list[tuple[int, int]] = []

    def predict(images: Sequence[npt.NDArray[np.uint8]]) -> list[Instances]:
        sizes.append([int(image[0, 0, 0]) for image in images])
        return [to_instances([]) for _ in images]

    evaluate_coco(
        predict,
        CLASS_NAMES,
        dataset.images,
        dataset.annotations,
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )

    assert sizes == [[5, 6], [7]]
    assert seen == [(2, 3), (3, 3)]


def test_a_batch_that_is_answered_in_part_is_an_error(dataset: DataSet) -> None:
    nothing = to_instances([])
    answers = iter([[nothing], [nothing, nothing]])  # as many as there are images, in all

    with pytest.raises(ValueError, match="shorter"):
        evaluate_coco(
            lambda _: next(answers),
            CLASS_NAMES,
            dataset.images,
            dataset.annotations,
            batch_size=2,
        )


def test_the_model_is_given_rgb(dataset: DataSet) -> None:
    blue_green_red = np.full((*SIZE, 3), (10, 20, 30), np.uint8)
    cv2.imwrite(str(dataset.images / "5.png"), blue_green_red)
    given: list[npt.NDArray[np.uint8]] = []

    def predict(images: Sequence[npt.NDArray[np.uint8]]) -> list[Instances]:
        given.extend(images)
        return [to_instances([]) for _ in images]

    evaluate_coco(predict, CLASS_NAMES, dataset.images, dataset.annotations, limit=1)

    assert given[0].shape == (*SIZE, 3)
    assert given[0].flags.c_contiguous
    assert given[0][0, 0].tolist() == [30, 20, 10]


@pytest.mark.parametrize(("apply_exif", "stored"), [(False, SIZE), (True, SIZE[::-1])])
def test_an_orientation_tag_turns_the_image_on_demand_only(
    dataset: DataSet, apply_exif: bool, stored: tuple[int, int]
) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    picture = Image.new("RGB", stored[::-1])
    picture.save(dataset.images / "5.png", format="JPEG", exif=turned)
    shapes: list[tuple[int, ...]] = []

    def predict(images: Sequence[npt.NDArray[np.uint8]]) -> list[Instances]:
        shapes.extend(image.shape for image in images)
        return [to_instances([]) for _ in images]

    evaluate_coco(
        predict,
        CLASS_NAMES,
        dataset.images,
        dataset.annotations,
        limit=1,
        apply_exif=apply_exif,
    )

    assert shapes == [(*SIZE, 3)]


@pytest.mark.parametrize("content", [b"", b"not a picture"], ids=["empty", "garbage"])
def test_an_image_that_cannot_be_decoded_is_named(dataset: DataSet, content: bytes) -> None:
    (dataset.images / "6.png").write_bytes(content)

    with pytest.raises(ValueError, match=r"cannot decode the image .*6\.png"):
        dataset.evaluate({})


def test_an_image_that_is_missing_is_named(dataset: DataSet) -> None:
    (dataset.images / "6.png").unlink()

    with pytest.raises(ValueError, match=r"cannot read the image .*6\.png"):
        dataset.evaluate({})


def test_an_image_of_another_size_than_annotated_is_named(dataset: DataSet) -> None:
    cv2.imwrite(str(dataset.images / "6.png"), np.zeros((10, 12, 3), np.uint8))

    with pytest.raises(ValueError, match=r"6\.png is 12x10 pixels, annotated as 160x120"):
        dataset.evaluate({})


def test_no_images_is_an_error(dataset: DataSet) -> None:
    with pytest.raises(ValueError, match="no image to evaluate on"):
        dataset.evaluate({}, limit=0)


@pytest.mark.parametrize("found", ["nothing", "everything"])
def test_nothing_is_printed_and_the_report_is_json(
    dataset: DataSet,
    shapes: dict[int, Found],
    capfd: pytest.CaptureFixture[str],
    found: str,
) -> None:
    choose: dict[str, Callable[[], dict[int, Found]]] = {
        "nothing": lambda: {},
        "everything": lambda: shapes,
    }

    report = dataset.evaluate(choose[found]())

    assert capfd.readouterr() == ("", "")
    written = json.loads(json.dumps(report.to_dict()))
    assert written["mask"]["ap"] == report.mask_ap
    assert written["per_class"]["cat"]["box"]["ap50"] == report.per_class["cat"].box.ap50
    assert set(written) == {"mask", "box", "per_class", "voc", "images", "seconds"}
