import json
import sys
from pathlib import Path

import pytest
from commands import run


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
