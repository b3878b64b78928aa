import subprocess
import sys
from pathlib import Path

import pytest
from commands import run


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


def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLOV2_PORT", "99999")

    code, output = run("serve")

    assert code == 1
    assert output.startswith("solov2: SOLOV2_PORT: ")


def test_the_serving_commands_start_without_torch() -> None:
    modules = "sys, service.cli, service.web.server, service.batch.scoring"
    code = f"import {modules}; print('torch' in sys.modules)"

    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout

    assert output == "False\n"
