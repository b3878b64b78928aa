import json
from pathlib import Path

import pytest

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
