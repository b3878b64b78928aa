import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import pytest
from pictures import astronaut
from PIL import Image
from tiny import save_tiny
from typer.testing import CliRunner

from service.cli import app
from service.dispatch.dispatcher import Dispatcher
from service.settings import Settings

PICTURE = astronaut()[::4, ::4]  # 128x128


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "astronaut.png"
    cv2.imwrite(str(path), PICTURE[:, :, ::-1])
    return path


@pytest.fixture
def annotations(tmp_path: Path, photo: Path) -> Path:
    """One person, a rectangle, in the photo."""
    path = tmp_path / "instances.json"
    corners = [40.0, 10.0, 90.0, 10.0, 90.0, 120.0, 40.0, 120.0]
    person = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": [corners],
        "bbox": [40, 10, 50, 110],
        "area": 5500,
        "iscrowd": 0,
    }
    data = {
        "images": [{"id": 1, "file_name": photo.name, "height": 128, "width": 128}],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}],
        "annotations": [person],
    }
    path.write_text(json.dumps(data))
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_predict_writes_json_and_picture_and_names_what_it_saw(
    weights: Path, photo: Path, tmp_path: Path
) -> None:
    code, output = run(
        "predict", photo, "--out", tmp_path / "out", "--weights", weights, "--min-score", 0.05
    )

    assert code == 0
    answer = json.loads((tmp_path / "out" / "astronaut.json").read_text())
    assert answer["boxes"]
    assert f"{answer['boxes'][0]['label']} {answer['boxes'][0]['score']:.2f}" in output
    assert cv2.imread(str(tmp_path / "out" / "astronaut.overlay.jpg")).shape == (128, 128, 3)


def test_predict_fails_when_a_photo_cannot_be_scored(weights: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("not a picture")

    code, output = run("predict", text, "--out", tmp_path / "out", "--weights", weights)

    assert code == 1
    assert "not a JPEG, PNG, BMP, TIFF, WebP or GIF image" in output


def test_predict_with_a_server_that_is_not_there_is_one_line(photo: Path, tmp_path: Path) -> None:
    code, output = run("predict", photo, "--out", tmp_path, "--url", "http://127.0.0.1:9")

    assert code == 1
    assert output.startswith("solov2: http://127.0.0.1:9/score cannot be reached")
    assert output.count("\n") == 1


@pytest.mark.parametrize("command", ["predict", "evaluate", "serve", "batch"])
def test_missing_weights_end_every_command_with_one_line(
    command: str, photo: Path, annotations: Path, tmp_path: Path
) -> None:
    arguments = {
        "predict": (photo, "--out", tmp_path),
        "evaluate": ("--images", tmp_path, "--annotations", annotations),
        "serve": ("--port", 0),
        "batch": (tmp_path, "--out", tmp_path / "out.jsonl"),
    }[command]

    code, output = run(command, *arguments, "--weights", tmp_path / "none.safetensors")

    assert code == 1
    assert "none.safetensors: no such weights file" in output
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "out", "reason"),
    [
        ("none", "out.jsonl", "none: no such file or folder, and no file matches it"),
        ("none/*.jpg", "out.jsonl", "none/*.jpg: no such file or folder, and no file matches it"),
        ("table.csv", "out.jsonl", "table.csv: no column 'image' among id, photo; --column names "),
        (".", "none/out.jsonl", "cannot write none/out.jsonl (No such file or directory)"),
        (".", "table.csv", "table.csv: line 1 is no result; name another file, or --overwrite"),
    ],
)
def test_a_batch_that_cannot_begin_says_why_in_one_line(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    out: str,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text("id,photo\n1,a.jpg\n")

    code, output = run("batch", given, "--out", out, "--weights", weights)

    assert code == 1
    assert output.startswith(f"solov2: {reason}")
    assert output.count("\n") == 1


def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLOV2_PORT", "99999")

    code, output = run("serve")

    assert code == 1
    assert output.startswith("solov2: SOLOV2_PORT: ")


def test_evaluate_prints_a_table_and_writes_the_figures(
    weights: Path, annotations: Path, tmp_path: Path
) -> None:
    out = tmp_path / "figures.json"

    code, output = run(
        *("evaluate", "--images", tmp_path, "--annotations", annotations),
        *("--weights", weights, "--out", out),
    )

    assert code == 0
    assert "person mask" in output
    figures = json.loads(out.read_text())
    assert figures["images"] == 1
    assert set(figures["per_class"]) == {"person", "cat"}


def test_benchmark_of_a_model_names_every_stage(weights: Path, photo: Path) -> None:
    code, output = run("benchmark", "model", photo, "--weights", weights, "--repeats", 1)

    assert code == 0
    stages = [line.split()[0] for line in output.splitlines()]
    assert stages == ["preprocess", "network", "postprocess", "polygons", "total", "128x128"]


def test_convert_refuses_what_is_no_checkpoint_in_one_line(tmp_path: Path) -> None:
    source = tmp_path / "noise.pth"
    source.write_bytes(b"noise")

    code, output = run("convert", source, tmp_path / "out.safetensors")

    assert code == 1
    assert output.startswith(f"solov2: {source}: ")
    assert output.count("\n") == 1


def test_download_of_an_unknown_variant_lists_those_there_are() -> None:
    code, output = run("download", "r18")

    assert code == 1
    assert "no published weights of 'r18'" in output
    assert "light_r18_3x" in output


@pytest.mark.parametrize("content", ["{}", "[]", "nope"])
def test_annotations_that_are_none_are_named_in_one_line(
    weights: Path, tmp_path: Path, content: str
) -> None:
    annotations = tmp_path / "e.json"
    annotations.write_text(content)

    code, output = run(
        "evaluate", "--images", tmp_path, "--annotations", annotations, "--weights", weights
    )

    assert code == 1
    assert output.startswith(f"solov2: {annotations}: not ")
    assert output.count("\n") == 1


def test_a_photo_named_like_markup_is_reported_not_obeyed(weights: Path, tmp_path: Path) -> None:
    code, output = run("predict", "a[/b].jpg", "--out", tmp_path, "--weights", weights)

    assert code == 1
    assert "a[/b].jpg: error: No such file or directory" in output


def test_wrong_validation_data_is_found_before_training(annotations: Path, tmp_path: Path) -> None:
    code, output = run(
        *("train", "--images", tmp_path, "--annotations", annotations, "--out", tmp_path / "run"),
        *("--val-images", tmp_path, "--val-annotations", tmp_path / "none.json"),
    )

    assert code == 1
    assert "none.json" in output
    assert not (tmp_path / "run").exists()


def test_without_the_train_extra_evaluate_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, weights: Path, annotations: Path, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "model.evaluate", raising=False)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)

    code, output = run(
        "evaluate", "--images", tmp_path, "--annotations", annotations, "--weights", weights
    )

    assert code == 1
    assert output == (
        "solov2: faster_coco_eval is not installed; pip install 'solov2[train]' brings it\n"
    )


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


def test_the_serving_commands_start_without_torch() -> None:
    modules = "sys, service.cli, service.web.server, service.batch.scoring"
    code = f"import {modules}; print('torch' in sys.modules)"

    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout

    assert output == "False\n"


def test_benchmark_of_a_server_writes_table_figures_and_plot(
    serve_in_thread: Callable[[Settings, Dispatcher], AbstractContextManager[str]],
    dispatcher: Dispatcher,
    tmp_path: Path,
) -> None:
    out, plot = tmp_path / "load.json", tmp_path / "load.png"
    times = ("--warm-up", 0, "--duration", 0.3)

    with serve_in_thread(Settings(), dispatcher) as url:
        code, output = run(
            *("benchmark", "http", url, "--concurrency", "1,2", "--rate", 20, *times),
            *("--probe", "--out", out, "--plot", plot),
        )

    assert code == 0, output
    assert "2 clients" in output
    points = json.loads(out.read_text())["points"]
    assert [(point["clients"], point["rate"]) for point in points] == [
        (1, None),
        (2, None),
        (None, 20),
    ]
    assert all(point["requests"] > 0 and not point["errors"] for point in points)
    assert cv2.imread(str(plot)).shape == (360, 4 * 480, 3)


def test_benchmark_of_a_server_that_is_not_there_is_one_line() -> None:
    code, output = run("benchmark", "http", "http://127.0.0.1:9")

    assert code == 1
    assert output.startswith("solov2: http://127.0.0.1:9 cannot be reached")
    assert output.count("\n") == 1


@pytest.mark.parametrize("loads", ["0", "-1", "two", "1,2.5"])
def test_a_load_that_is_no_number_of_clients_is_refused(loads: str) -> None:
    code, output = run("benchmark", "http", "http://127.0.0.1:9", "--concurrency", loads)

    assert code == 1
    assert output.startswith("solov2: --concurrency and --rate take numbers")
