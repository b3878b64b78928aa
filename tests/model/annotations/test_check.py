from pathlib import Path
from typing import Any

import pytest
from annotated import CORNER, coco_content, save_coco, uncompressed
from PIL import Image

from model.annotations.check import find_problems, refuse_broken
from model.annotations.coco import read_coco


def problems(path: Path, content: Any = None, **options: Any) -> list[str]:
    if content is not None:
        save_coco(path, content)
    return [str(problem) for problem in find_problems(read_coco(path), **options)]


def test_a_sound_data_set_has_none(coco: Path) -> None:
    done = []

    assert problems(coco, progress=lambda n, total: done.append((n, total))) == []
    assert done == [(1, 2), (2, 2)]


def test_a_missing_picture_is_named(coco: Path) -> None:
    (coco.parent / "a.png").unlink()

    [problem] = problems(coco)

    assert problem.startswith("a.png: there is no picture ")


def test_a_picture_that_is_none_is_named(coco: Path) -> None:
    (coco.parent / "a.png").write_bytes(b"no picture")

    [problem] = problems(coco)

    assert problem.endswith("a.png is no picture that can be read")


def test_a_truncated_picture_is_found_by_decoding_it(coco: Path) -> None:
    picture = coco.parent / "a.png"
    Image.effect_noise((8, 6), 50).save(picture)
    picture.write_bytes(picture.read_bytes()[:60])

    assert "cannot decode the image" in problems(coco)[0]
    assert problems(coco, thorough=False) == []


def test_a_picture_of_another_size_is_named(coco: Path) -> None:
    Image.new("RGB", (6, 8)).save(coco.parent / "a.png")

    [problem] = problems(coco)

    assert problem == "a.png: is 6x8 pixels, annotated as 8x6"


@pytest.mark.parametrize(("apply_exif", "found"), [(False, 1), (True, 0)])
def test_orientation_counts_only_where_it_is_applied(
    coco: Path, apply_exif: bool, found: int
) -> None:
    lying = Image.Exif()
    lying[274] = 6
    Image.new("RGB", (6, 8)).save(coco.parent / "a.png", exif=lying)

    assert len(problems(coco, apply_exif=apply_exif)) == found


def test_a_broken_segmentation_is_named_with_its_picture(coco: Path) -> None:
    content = coco_content()
    content["annotations"][0]["segmentation"] = [[1, 2, 3]]

    assert problems(coco, content) == [
        "annotation 1 (dog in a.png): ring 1 has 3 numbers, which are no pairs of x and y"
    ]


def test_an_object_without_a_pixel_is_found_by_drawing_it(coco: Path) -> None:
    content = coco_content()
    content["annotations"][0]["segmentation"] = uncompressed(CORNER & False)

    assert problems(coco, content) == [
        "annotation 1 (dog in a.png): covers no pixel and is ignored"
    ]
    assert problems(coco, thorough=False) == []


def test_a_class_without_objects_is_named(coco: Path) -> None:
    content = coco_content()
    content["categories"].append({"id": 8, "name": "bird"})

    assert problems(coco, content) == ["class bird: has no object"]


def test_a_class_of_crowds_alone_has_nothing_to_learn_from(coco: Path) -> None:
    content = coco_content()
    content["annotations"][0]["iscrowd"] = 1

    assert problems(coco, content) == ["class dog: has no object"]


def test_one_picture_listed_twice_is_named(coco: Path) -> None:
    content = coco_content()
    content["images"][1]["file_name"] = "a.png"

    assert problems(coco, content) == ["a.png: is the same picture as a.png"]


@pytest.mark.parametrize(("emptied", "problem"), [("images", "picture"), ("annotations", "object")])
def test_an_empty_data_set_is_a_problem(coco: Path, emptied: str, problem: str) -> None:
    content = {**coco_content(), "annotations": [], emptied: []}

    assert problems(coco, content)[0] == f"the data set: has no {problem}"


def test_the_first_fatal_problems_are_the_reason_to_refuse(coco: Path) -> None:
    content = coco_content()
    for annotation in content["annotations"]:
        annotation["image_id"] = 1
    content["annotations"].append(content["annotations"][0] | {"id": 4})
    annotations = read_coco(save_coco(coco, content))

    with pytest.raises(ValueError, match=r"annotation 1: is for image 1.*and 2 more") as caught:
        refuse_broken(find_problems(annotations), coco)

    assert "annotation 4" not in str(caught.value)


def test_notes_are_no_reason_to_refuse(coco: Path) -> None:
    content = coco_content()
    content["categories"].append({"id": 8, "name": "bird"})

    refuse_broken(find_problems(read_coco(save_coco(coco, content))), coco)
