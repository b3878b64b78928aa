import json
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.training.journal import Journal


def test_every_entry_is_a_line_of_json_and_a_line_on_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal(tmp_path / "log.jsonl", iteration=0, total=10) as journal:
        journal.advance(5)
        journal.write(5, loss=1.23456, note="x")

    assert json.loads((tmp_path / "log.jsonl").read_text()) == {
        "iteration": 5,
        "loss": 1.23456,
        "note": "x",
    }
    assert "5/10  loss 1.235  note x" in capsys.readouterr().out


def test_a_resumed_run_forgets_the_lines_it_is_about_to_repeat(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with Journal(path, iteration=0, total=10) as journal:
        for iteration in (2, 4, 6):
            journal.write(iteration)

    with Journal(path, iteration=4, total=10) as journal:
        journal.write(6)

    lines = path.read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [2, 4, 6]


def test_a_line_that_a_killed_run_left_unfinished_is_dropped(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"iteration": 1}\n{"itera')

    with Journal(log, iteration=1, total=2):
        pass

    assert log.read_text() == '{"iteration": 1}\n'


def test_nested_figures_are_for_the_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal(tmp_path / "log.jsonl", iteration=0, total=10) as journal:
        journal.write(5, mask_ap=0.5, per_class={"cat": {"mask_ap": 0.5}})

    assert json.loads((tmp_path / "log.jsonl").read_text())["per_class"]["cat"]["mask_ap"] == 0.5
    assert "cat" not in capsys.readouterr().out


def test_tensorboard_gets_every_figure(tmp_path: Path) -> None:
    board = tmp_path / "tensorboard"
    with Journal(tmp_path / "log.jsonl", iteration=0, total=10, board=board) as journal:
        journal.write(5, loss=1.5, per_class={})
        journal.write(6, loss=1.25)

    events = EventAccumulator(str(board)).Reload()

    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(5, 1.5), (6, 1.25)]


def test_a_resumed_run_keeps_what_tensorboard_has_up_to_there(tmp_path: Path) -> None:
    board = tmp_path / "tensorboard"
    for start, steps in ((0, (2, 4, 6)), (4, (6,))):
        with Journal(tmp_path / "log.jsonl", iteration=start, total=10, board=board) as journal:
            for step in steps:
                journal.write(step, loss=float(start))

    events = EventAccumulator(str(board)).Reload()

    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(2, 0), (4, 0), (6, 4)]


def test_without_tensorboard_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)

    with pytest.raises(ValueError, match=r"solov2\[tensorboard\]"):
        Journal(tmp_path / "log.jsonl", iteration=0, total=1, board=tmp_path)
