import json
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import run

from model.predictor import Predictor


def test_evaluate_prints_tables_and_writes_the_figures(
    weights: Path, annotations: Path, tmp_path: Path
) -> None:
    out, html = tmp_path / "figures.json", tmp_path / "figures.html"

    code, output = run(
        *("evaluate", "--images", tmp_path, "--annotations", annotations),
        *("--weights", weights, "--out", out, "--html", html),
    )

    assert code == 0
    assert "person mask" in output
    assert "Azure: masks of score 0.3 and above, IoU 0.5" in output
    figures = json.loads(out.read_text())
    assert figures["images"] == 1
    assert set(figures["per_class"]) == {"person", "cat"}
    assert set(figures["voc"]["per_label_metrics"]) == {"person", "cat"}
    assert "Evaluation of tiny.safetensors" in html.read_text()


@pytest.mark.parametrize("exact", [False, True])
def test_evaluate_takes_the_exact_way_when_asked_to(
    monkeypatch: pytest.MonkeyPatch, weights: Path, annotations: Path, tmp_path: Path, exact: bool
) -> None:
    ways = []
    load = Predictor.load

    def loads(*args: Any, **options: Any) -> Predictor:
        ways.append(options["exact"])
        return load(*args, **options)

    monkeypatch.setattr(Predictor, "load", loads)

    code, _ = run(
        *("evaluate", "--images", tmp_path, "--annotations", annotations, "--weights", weights),
        *(["--exact"] if exact else []),
    )

    assert code == 0
    assert ways == [exact]


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


def test_without_the_train_extra_evaluate_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, weights: Path, annotations: Path, tmp_path: Path
) -> None:
    for module in ("model.evaluate", "service.report"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)

    code, output = run(
        "evaluate", "--images", tmp_path, "--annotations", annotations, "--weights", weights
    )

    assert code == 1
    assert output == (
        "solov2: faster_coco_eval is not installed; pip install 'solov2[train]' brings it\n"
    )


def test_evaluate_asks_a_server_for_what_it_judges(annotations: Path, tmp_path: Path) -> None:
    code, output = run(
        *("evaluate", "--images", tmp_path, "--annotations", annotations),
        *("--url", "http://127.0.0.1:9"),
    )

    assert code == 1
    assert "astronaut.png: http://127.0.0.1:9/score cannot be reached" in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("option", [("--weights", "tiny.safetensors"), ("--exact",)])
def test_what_a_server_decides_for_itself_cannot_be_given(
    annotations: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    code, output = run(
        *("evaluate", "--images", tmp_path, "--annotations", annotations),
        *("--url", "http://127.0.0.1:9", *option),
    )

    assert code == 1
    assert output == (
        "solov2: --url leaves weights, device, precision, EXIF and exactness to the server\n"
    )


@pytest.mark.parametrize("option", ["--out", "--html"])
def test_a_folder_to_write_to_that_is_missing_is_named_before_the_work(
    annotations: Path, tmp_path: Path, option: str
) -> None:
    file = tmp_path / "missing" / "figures"

    code, output = run(
        *("evaluate", "--images", tmp_path, "--annotations", annotations, option, file)
    )

    assert code == 1
    assert output == f"solov2: {file}: its folder does not exist\n"
