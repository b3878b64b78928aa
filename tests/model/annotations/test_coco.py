import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import HEIGHT, MASK, WIDTH, assert_as_wanted, coco_content, save_coco
from pycocotools.coco import COCO

from model.annotations.coco import read_coco, write_coco
from model.annotations.masks import decode_masks


def problems(folder: Path, content: Any) -> list[str]:
    return [str(problem) for problem in read_coco(save_coco(folder / "x.json", content)).problems]


def test_pictures_objects_and_crowds_are_read(coco: Path) -> None:
    annotations = read_coco(coco)

    assert annotations.class_names == ("cat", "dog")
    assert_as_wanted(annotations)


def test_pictures_may_lie_elsewhere(coco: Path, tmp_path: Path) -> None:
    images = read_coco(coco, tmp_path / "elsewhere").images

    assert images[0].path == tmp_path / "elsewhere" / "a.png"


def test_what_was_written_reads_as_it_was_even_to_pycocotools(coco: Path, tmp_path: Path) -> None:
    annotations = read_coco(coco)
    (tmp_path / "deep").mkdir()
    copy = tmp_path / "deep" / "copy.json"

    write_coco(copy, ((i, i.path) for i in annotations.images), annotations.class_names)

    assert_as_wanted(read_coco(copy))
    judged = COCO(str(copy))
    assert [int(judged.annToMask(a).sum()) for a in judged.anns.values()] == [15, 4, 4]
    assert [a["area"] for a in judged.anns.values()] == [15, 4, 4]
    assert judged.anns[1]["bbox"] == [2, 1, 5, 3]


def test_areas_and_boxes_of_the_file_are_kept(coco: Path, tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][0] |= {"area": 14.5, "bbox": [2.25, 1, 4.5, 3]}
    annotations = read_coco(save_coco(coco, content))

    write_coco(coco, ((i, i.path) for i in annotations.images), annotations.class_names)

    first = json.loads(coco.read_text())["annotations"][0]
    assert (first["area"], first["bbox"]) == (14.5, [2.25, 1, 4.5, 3])


def test_crowds_are_written_as_run_lengths(coco: Path) -> None:
    content = coco_content()
    content["annotations"][0]["iscrowd"] = 1
    annotations = read_coco(save_coco(coco, content))

    write_coco(coco, ((i, i.path) for i in annotations.images), annotations.class_names)

    first = json.loads(coco.read_text())["annotations"][0]["segmentation"]
    assert np.array_equal(decode_masks([first], HEIGHT, WIDTH)[0].numpy(), MASK)
    assert first["size"] == [HEIGHT, WIDTH]


def test_a_file_in_a_linked_folder_finds_its_pictures(coco: Path, tmp_path: Path) -> None:
    annotations = read_coco(coco)
    (tmp_path / "some" / "where" / "else").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "some" / "where" / "else")
    copy = tmp_path / "link" / "copy.json"

    write_coco(copy, ((i, i.path) for i in annotations.images), annotations.class_names)

    assert_as_wanted(read_coco(copy))


def test_other_classes_are_not_written(coco: Path) -> None:
    annotations = read_coco(coco)

    write_coco(coco, ((i, i.path) for i in annotations.images), ["dog"])

    written = json.loads(coco.read_text())
    assert [a["category_id"] for a in written["annotations"]] == [1]
    assert len(written["images"]) == 2


@pytest.mark.parametrize(
    ("part", "number", "change", "problem"),
    [
        ("annotations", 0, {"image_id": 99}, "annotation 1: is for image 99"),
        ("annotations", 1, {"category_id": 99}, "annotation 2: is of category 99"),
        ("annotations", 2, {"id": 1}, "annotation 1: its id is used more than once"),
        ("images", 1, {"id": 7}, "b.png: its id 7 is used more than once"),
        ("images", 0, {"height": "6"}, "a.png: its height is '6'"),
        ("images", 0, {"width": 0}, "a.png: its width is 0"),
        ("images", 0, {"file_name": None}, "None: an image needs id and file_name"),
        ("categories", 1, {"name": "cat"}, "category cat: its id or name is used more than once"),
        ("categories", 1, {"id": None}, "category number 2: has no id"),
    ],
)
def test_what_does_not_fit_together_is_named(
    tmp_path: Path, part: str, number: int, change: dict[str, Any], problem: str
) -> None:
    content = coco_content()
    content[part][number] |= change

    assert problem in "\n".join(problems(tmp_path, content))


@pytest.mark.parametrize(
    "content", ["[]", "{}", "no json", '{"images": [1], "annotations": [], "categories": []}']
)
def test_a_file_that_is_no_annotation_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)

    with pytest.raises(ValueError, match=r"other\.json is no COCO annotation file"):
        read_coco(path)


def test_ids_that_are_no_ids_are_refused_too(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"][0]["image_id"] = [7]

    with pytest.raises(ValueError, match="is no COCO annotation file"):
        read_coco(save_coco(tmp_path / "x.json", content))
