import json
from pathlib import Path

from commands import run


def test_a_sound_data_set_is_counted(annotations: Path) -> None:
    content = json.loads(annotations.read_text())
    content["categories"].pop()
    annotations.write_text(json.dumps(content))

    code, output = run("dataset", "check", annotations)

    assert code == 0, output
    assert output == "1 pictures, 1 objects, 1 classes: person; 0 errors, 0 notes\n"


def test_what_is_broken_is_named_and_ends_in_an_error(annotations: Path, photo: Path) -> None:
    content = json.loads(annotations.read_text())
    content["annotations"][0]["segmentation"] = [[1, 2, 3]]
    annotations.write_text(json.dumps(content))

    code, output = run("dataset", "check", annotations)

    assert code == 1
    assert f"error: annotation 1 (person in {photo.name}): ring 1 has 3 numbers" in output
    assert "note: class cat: has no object" in output
    assert "; 1 errors, 1 notes" in output


def test_a_data_set_is_converted(annotations: Path, tmp_path: Path) -> None:
    code, output = run("dataset", "convert", annotations, tmp_path / "voc", "--to", "voc")

    assert code == 0, output
    assert output == f"{tmp_path / 'voc'}: 1 pictures, 1 objects\n"
    assert run("dataset", "check", tmp_path / "voc")[0] == 0


def test_a_broken_data_set_is_not_converted(annotations: Path, photo: Path, tmp_path: Path) -> None:
    photo.unlink()

    code, output = run("dataset", "convert", annotations, tmp_path / "voc", "--to", "voc")

    assert code == 1
    assert "there is no picture" in output
    assert not (tmp_path / "voc").exists()


def test_what_is_no_data_set_is_one_line(tmp_path: Path) -> None:
    for arguments in (("check", tmp_path), ("convert", tmp_path, tmp_path / "x", "--to", "coco")):
        code, output = run("dataset", *arguments)

        assert code == 1
        assert output.startswith(f"solov2: {tmp_path} holds neither")
        assert output.count("\n") == 1
