from pathlib import Path

import pytest
from commands import run


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
