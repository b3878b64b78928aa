import json
from pathlib import Path
from typing import Any

import pytest
from annotated import HEIGHT, WIDTH, assert_as_wanted, azure_lines, save_lines

from model.annotations.azure import read_azure, write_azure
from model.annotations.coco import read_coco


def test_a_folder_with_an_mltable_is_read(azure: Path) -> None:
    annotations = read_azure(azure)

    assert annotations.class_names == ("cat", "dog")
    assert_as_wanted(annotations)


def test_lines_are_read_without_a_table(azure: Path) -> None:
    assert_as_wanted(read_azure(azure / "train.jsonl"))


def test_pictures_are_found_where_the_user_says(azure: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.mkdir()
    (azure / "train.jsonl").rename(lines / "train.jsonl")

    annotations = read_azure(lines / "train.jsonl", tmp_path)

    assert_as_wanted(annotations)


def test_names_in_addresses_may_be_escaped_and_files_start_with_a_mark(azure: Path) -> None:
    """Azure escapes blanks, and Windows marks UTF-8."""
    (azure / "images" / "a.png").rename(azure / "images" / "a b.png")
    first, second = azure_lines()
    first["image_url"] = first["image_url"].replace("a.png", "a%20b.png")
    lines = "\n".join(json.dumps(line) for line in (first, second))
    (azure / "train.jsonl").write_text(lines, encoding="utf-8-sig")

    annotations = read_azure(azure)

    assert annotations.problems == ()
    assert annotations.images[0].path == azure / "images" / "a b.png"


def test_a_picture_that_is_nowhere_keeps_its_name(azure: Path) -> None:
    (azure / "images" / "a.png").unlink()

    assert read_azure(azure).images[0].path == azure / "a.png"


def test_what_was_written_reads_as_it_was(coco: Path, tmp_path: Path) -> None:
    """Crowds become rings, and rings fractions of the picture's sides."""
    images = read_coco(coco).images

    write_azure(tmp_path, ((image, image.path) for image in images))

    assert_as_wanted(read_azure(tmp_path))
    first = json.loads((tmp_path / "annotations.jsonl").read_text().splitlines()[0])
    assert first["image_url"] == "a.png"
    assert first["image_details"] == {"format": "png", "width": WIDTH, "height": HEIGHT}
    assert first["label"][0]["polygon"][0][:2] == [0.25, 1 / 6]


def test_pictures_can_be_given_an_address(coco: Path, tmp_path: Path) -> None:
    images = read_coco(coco).images

    write_azure(tmp_path, ((image, image.path) for image in images), base_url="azureml://x/paths/")

    assert '"azureml://x/paths/a.png"' in (tmp_path / "annotations.jsonl").read_text()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image_url": None}, "train.jsonl line 1: "),
        ({"image_url": "https://host"}, "names no file"),
        ({"label": [{"label": "cat", "bbox": "null"}]}, "label 1: has no 'polygon'"),
        ({"label": [{"label": "", "polygon": [[0, 0, 1, 0, 1, 1]]}]}, "its label is no text"),
        ({"label": [{"label": "cat", "polygon": [[2, 1, 7, 1, 7, 4]]}]}, "in fractions"),
        ({"label": [{"label": "cat", "polygon": [["a", 1]]}]}, "label 1: "),
        ({"image_details": {"width": "wide", "height": 6}}, "line 1: "),
        ({"image_details": {"width": 0, "height": 6}}, "image_details say 0x6"),
    ],
)
def test_a_broken_line_is_named_and_the_others_are_read(
    azure: Path, change: dict[str, Any], problem: str
) -> None:
    first, second = azure_lines()
    save_lines(azure / "train.jsonl", [first | change, second])

    annotations = read_azure(azure)

    assert len(annotations.problems) == 1
    assert problem in str(annotations.problems[0])
    assert annotations.images[-1].path.name == "b.png"


def test_a_line_that_is_no_json_is_named(azure: Path) -> None:
    with (azure / "train.jsonl").open("a") as file:
        file.write('{"image_url": ')

    [problem] = read_azure(azure).problems

    assert str(problem).startswith("train.jsonl line 3: ")


@pytest.mark.parametrize("table", ["[]", "paths: []", "paths:\n  - file: azureml://x", "a: b: c"])
def test_a_table_without_files_is_refused(azure: Path, table: str) -> None:
    (azure / "MLTable").write_text(table)

    with pytest.raises(ValueError, match="MLTable"):
        read_azure(azure)


def test_a_file_without_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")

    with pytest.raises(ValueError, match="has no line"):
        read_azure(tmp_path / "empty.jsonl")
