import json
from pathlib import Path

import cv2
import numpy as np
from commands import run


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


def test_a_photo_named_like_markup_is_reported_not_obeyed(weights: Path, tmp_path: Path) -> None:
    code, output = run("predict", "a[/b].jpg", "--out", tmp_path, "--weights", weights)

    assert code == 1
    assert "a[/b].jpg: error: No such file or directory" in output


def test_panoptic_maps_come_with_an_index_of_them(
    weights: Path, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    code, _ = run(
        *("predict", photo, "--out", out, "--weights", weights),
        *("--min-score", 0.05, "--panoptic"),
    )

    assert code == 0
    index = json.loads((out / "panoptic" / "panoptic.json").read_text())
    assert [category["name"] for category in index["categories"]] == ["person", "cat"]
    [annotation] = index["annotations"]
    bgr = cv2.imread(str(out / "panoptic" / annotation["file_name"])).astype(int)
    ids = bgr[:, :, 2] + 256 * bgr[:, :, 1] + 256**2 * bgr[:, :, 0]
    areas = {segment["id"]: segment["area"] for segment in annotation["segments_info"]}
    assert areas
    assert areas == {id_: (ids == id_).sum() for id_ in np.unique(ids[ids > 0])}
