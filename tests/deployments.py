"""What tests of files for deployments share."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import AliasChoices

from service.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"

_OTHER_PYTHON = "SOLOV2_DEPLOYMENTS_PYTHON"


def documents(file: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return [*yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def variable(field: str) -> str:
    """The environment variable of a setting, ours where there are several."""
    alias = Settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return str(alias or f"SOLOV2_{field}".upper())


def settings_of(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that a service started with these variables has; each must be one of ours."""
    unknown = set(environment) - {variable(field) for field in Settings.model_fields}
    assert not unknown
    for name, value in environment.items():
        assert isinstance(value, str), f"{name} needs quotes"
        monkeypatch.setenv(name, value)
    return Settings.load()


def faults(files: Sequence[Path]) -> dict[str, str]:
    """What the makers' own models say of files; empty where they find no fault.

    Azure's SDK and the models of custom resources pin packages that we need in other versions. So
    they live in an environment of their own, which ``make check-deployments`` makes.
    """
    python = os.environ.get(_OTHER_PYTHON)
    if not python:
        pytest.skip(f"{_OTHER_PYTHON} names no Python with Azure's SDK: make check-deployments")
    script = Path(__file__).with_name("validate_deployments.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [python, script, *files], env=environment, stdout=subprocess.PIPE, check=True
    )
    found: dict[str, str] = json.loads(result.stdout.splitlines()[-1])
    assert found.keys() == {str(file) for file in files}
    sys.stdout.write(json.dumps(found, indent=1))
    return {file: fault for file, fault in found.items() if fault}
