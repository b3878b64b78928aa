import json
from pathlib import Path

from commands import run
from PIL import Image


def test_wrong_validation_data_is_found_before_training(annotations: Path, tmp_path: Path) -> None:
    code, output = run(
        *("train", "--images", tmp_path, "--annotations", annotations, "--out", tmp_path / "run"),
        *("--val-images", tmp_path, "--val-annotations", tmp_path / "none.json"),
    )

    assert code == 1
    assert "none.json" in output
    assert not (tmp_path / "run").exists()


def test_train_then_evaluate_its_weights(annotations: Path, tmp_path: Path) -> None:
    data = ("--images", tmp_path, "--annotations", annotations)
    steps = ("--epochs", 2, "--batch-size", 1, "--short-side", 64, "--long-side", 96)

    code, output = run(
        "train", *data, "--out", tmp_path / "run", *steps, "--workers", 0, "--device", "cpu"
    )

    assert code == 0, output
    last = tmp_path / "run" / "last.safetensors"
    assert f"2 iterations, last weights in {last}" in output.replace("\n", "")
    assert run("evaluate", *data, "--weights", last)[0] == 0


def test_pictures_are_turned_for_training_and_evaluation_on_demand_only(
    annotations: Path, tmp_path: Path
) -> None:
    lying = Image.Exif()
    lying[274] = 6
    Image.new("RGB", (128, 64)).save(tmp_path / "lying.jpg", exif=lying)
    content = json.loads(annotations.read_text())
    content["images"] = [{"id": 1, "file_name": "lying.jpg", "height": 128, "width": 64}]
    annotations.write_text(json.dumps(content))
    data = ("--images", tmp_path, "--annotations", annotations)
    validation = ("--val-images", tmp_path, "--val-annotations", annotations)
    steps = ("--epochs", 1, "--batch-size", 1, "--short-side", 64, "--long-side", 96)
    training = ("train", *data, *validation, *steps, "--workers", 0, "--device", "cpu")
    last = tmp_path / "run" / "last.safetensors"

    code, output = run(*training, "--out", tmp_path / "run", "--apply-exif")
    assert code == 0, output
    assert run("evaluate", *data, "--weights", last, "--apply-exif")[0] == 0
    for command in ((*training, "--out", tmp_path), ("evaluate", *data, "--weights", last)):
        code, output = run(*command)
        assert code == 1
        assert "is 128x64 pixels, annotated as 64x128" in output.replace("\n", " ")
