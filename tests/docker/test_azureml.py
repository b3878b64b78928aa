import base64
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from deployments import DOCKER, documents, faults, settings_of
from starlette.testclient import TestClient

from service.dispatch.dispatcher import Health
from service.settings import Settings
from service.web.app import create_app

AZURE = DOCKER / "azureml"
PHOTO = Path(__file__).parents[1] / "photos" / "astronaut.jpg"
FILES = sorted([*AZURE.glob("*.yml"), *AZURE.glob("*.json")])
ONLINE = [AZURE / "deployment.yml", AZURE / "kubernetes-deployment.yml"]


def read(name: str) -> dict[str, Any]:
    [document] = documents(AZURE / name)
    return document


@pytest.fixture(params=ONLINE, ids=lambda file: file.stem)
def online(request: pytest.FixtureRequest) -> dict[str, Any]:
    [document] = documents(request.param)
    return document


def test_azures_own_schemas_find_no_fault() -> None:
    assert faults(FILES) == {}


def test_azures_own_schemas_would_find_one(tmp_path: Path) -> None:
    broken = tmp_path / "deployment.yml"
    text = (AZURE / "deployment.yml").read_text(encoding="utf-8")
    broken.write_text(text.replace("request_timeout_ms", "request_timeout"), encoding="utf-8")
    rule = tmp_path / "autoscale.json"
    text = (AZURE / "autoscale.json").read_text(encoding="utf-8")
    rule.write_text(text.replace("timeWindow", "window"), encoding="utf-8")

    found = faults([broken, rule])

    assert "request_timeout" in found[str(broken)]
    assert "window" in found[str(rule)]


def test_its_variables_are_settings_and_their_values_fit(
    online: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(online["environment_variables"], monkeypatch)

    assert settings.weights_path == Path(online["model_mount_path"])


def test_our_deadline_ends_before_azures(
    online: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(online["environment_variables"], monkeypatch)
    slowest_ms = settings.scoring_timeout_ms + 1000 * settings.url_timeout_s

    assert slowest_ms < online["request_settings"]["request_timeout_ms"] <= 180_000


def test_enough_requests_come_at_once_for_batches_and_no_more_than_may_wait(
    online: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(online["environment_variables"], monkeypatch)
    at_once = online["request_settings"]["max_concurrent_requests_per_instance"]

    assert at_once >= 2 * settings.max_batch_size
    assert 2 * at_once <= settings.max_queue_images  # Azure lets twice the number through


@pytest.mark.parametrize("kind", ["liveness", "readiness"])
def test_probes_ask_routes_that_follow_their_own_reason(
    online: dict[str, Any], kind: str, dispatcher: Any
) -> None:
    route = online["environment"]["inference_config"][f"{kind}_route"]
    own_reason = {"liveness": Health(dead="no beat"), "readiness": Health(unready="loading")}[kind]
    other = {"readiness": Health(dead="no beat"), "liveness": Health(unready="loading")}[kind]

    with TestClient(create_app(Settings(), dispatcher)) as client:
        answers = []
        for dispatcher.reasons in (Health(), other, own_reason):
            answers.append(client.get(route["path"]).status_code)

    assert route["port"] == Settings().port
    assert answers == [200, 200, 503]


@pytest.mark.parametrize("prefix", ["", "kubernetes-"])
def test_deployment_model_and_endpoint_name_each_other(prefix: str) -> None:
    deployment = read(f"{prefix}deployment.yml")

    assert deployment["endpoint_name"] == read(f"{prefix}endpoint.yml")["name"]
    assert deployment["model"] == f"azureml:{read('model.yml')['name']}@latest"


def test_the_registered_model_is_a_file_that_ships() -> None:
    assert (AZURE / read("model.yml")["path"]).resolve() == Settings().weights_path.resolve()


def test_the_rule_to_grow_and_the_rule_to_shrink_never_answer_each_other() -> None:
    template = json.loads((AZURE / "autoscale.json").read_text(encoding="utf-8"))
    grow, shrink = template["resources"][0]["properties"]["profiles"][0]["rules"]
    upper, lower = (rule["metricTrigger"]["threshold"] for rule in (grow, shrink))
    more, fewer = (int(rule["scaleAction"]["value"]) for rule in (grow, shrink))
    smallest = int(template["parameters"]["minimum"]["defaultValue"])

    assert smallest == read("deployment.yml")["instance_count"]
    assert upper * smallest / (smallest + more) > lower
    assert lower * (smallest + fewer) / smallest < upper


@pytest.fixture
def smoke() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smoke", AZURE / "smoke.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_smoke_script_reads_what_the_service_answers(
    smoke: ModuleType, online: dict[str, Any], dispatcher: Any
) -> None:
    route = online["environment"]["inference_config"]["scoring_route"]

    with TestClient(create_app(Settings(), dispatcher)) as client:

        def invoke(request_file: str) -> str:
            content = Path(request_file).read_bytes()
            row = json.loads(content)["input_data"]["data"][0]
            assert base64.b64decode(row) == PHOTO.read_bytes()
            headers = {"content-type": "application/json"}
            return client.post(route["path"], content=content, headers=headers).text

        instances = smoke.score(PHOTO, invoke)

    assert route["port"] == Settings().port
    assert instances[0]["label"] == "person"


BOX = {"topX": 0, "topY": 0, "bottomX": 1, "bottomY": 1}
RING = [0, 0, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ({"message": "no"}, "not one list of boxes"),
        ([], "not one list of boxes"),
        ([{"boxes": [{"box": BOX, "label": "cat"}]}], "has the keys"),
        ([{"boxes": [{"box": BOX, "label": "a", "score": 1, "polygon": []}]}], "three points"),
        ([{"boxes": [{"box": BOX, "label": "a", "score": 1, "polygon": [[0] * 4]}]}], "three"),
        ([{"boxes": [{"box": BOX, "label": "a", "score": 1, "polygon": [[9] * 6]}]}], "fraction"),
    ],
)
def test_the_smoke_script_does_not_take_any_answer_for_success(
    smoke: ModuleType, answer: object, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        smoke.score(PHOTO, lambda file: json.dumps(answer))
