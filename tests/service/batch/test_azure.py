import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from deployments import settings_of

from service.batch.errors import BatchError

FOLDER = Path(__file__).parents[3] / "docker" / "azureml"
DEPLOYMENT = yaml.safe_load((FOLDER / "batch-deployment.yml").read_text(encoding="utf-8"))


@pytest.fixture
def script(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The scoring script, loaded by its path as Azure does, beside a mounted model."""
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tiny_weights.parent))
    code = DEPLOYMENT["code_configuration"]
    spec = importlib.util.spec_from_file_location(
        "score", FOLDER / code["code"] / code["scoring_script"]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    module.shutdown()


def test_each_file_of_a_mini_batch_gets_its_line_in_order(
    script: ModuleType, tmp_path: Path, photo: bytes
) -> None:
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes(photo)
    bad.write_bytes(b"not a photo")
    script.init()

    answers = [json.loads(line) for line in script.run([str(good), str(bad), str(good)])]
    again = [json.loads(line) for line in script.run([str(bad)])]

    assert [answer["image"] for answer in answers] == [str(good), str(bad), str(good)]
    assert answers[0]["boxes"]
    assert answers[1:2] == again
    assert again[0]["error"] == "not a JPEG, PNG, BMP, TIFF, WebP or GIF image"


def test_weights_that_cannot_be_used_end_the_job_at_its_start(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path))

    with pytest.raises(BatchError):
        script.init()


def test_every_variable_of_the_deployment_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    settings_of(DEPLOYMENT["settings"]["environment_variables"], monkeypatch)
