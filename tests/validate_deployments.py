"""Check files of deployments with their makers' own models; run by ``deployments.faults``.

Needs the dependency group ``deployments``. The last line printed is a JSON object: file -> fault,
empty where there is none.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml
from azure.ai import ml
from azure.ai.ml.entities._load_functions import load_model_batch_deployment
from azure.mgmt.monitor.models import AutoscaleSettingResource
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

AZURE = {
    "model": ml.load_model,
    "managedOnlineEndpoint": ml.load_online_endpoint,
    "managedOnlineDeployment": ml.load_online_deployment,
    "kubernetesOnlineEndpoint": ml.load_online_endpoint,
    "kubernetesOnlineDeployment": ml.load_online_deployment,
    "modelBatchDeployment": load_model_batch_deployment,  # as the command line takes it
}
CUSTOM_RESOURCES = {"ScaledObject": ScaledObject, "ServiceMonitor": ServiceMonitor}


def check(file: Path) -> None:
    """Raise where a maker's model does not take a file, or does not take all of it."""
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        if "contentVersion" in document:
            _check_template(document)
        elif "$schema" in document:
            kind = document["$schema"].rsplit("/", 1)[1].removesuffix(".schema.json")
            AZURE[kind](file)  # refuses what it does not know
        else:
            model = CUSTOM_RESOURCES[document["kind"]].model_validate(document)
            _require_same(document, model.model_dump(mode="json", by_alias=True, exclude_none=True))


def _check_template(template: dict[str, Any]) -> None:
    """The one resource of an Azure template, its parameters filled in."""
    text = json.dumps(template["resources"][0])
    for name, parameter in template["parameters"].items():
        text = text.replace(f"[parameters('{name}')]", parameter.get("defaultValue", name))
    resource = json.loads(text)
    del resource["apiVersion"]
    model = AutoscaleSettingResource.from_dict(resource, content_type="application/json")
    _require_same(resource, model.serialize(keep_readonly=True))


def _require_same(given: Any, understood: Any, place: str = "") -> None:
    """Models leave out what they do not know."""
    if isinstance(given, dict) and isinstance(understood, dict):
        for key, value in given.items():
            if key not in understood:
                raise ValueError(f"{place}.{key} is unknown")
            _require_same(value, understood[key], f"{place}.{key}")
    elif isinstance(given, list) and isinstance(understood, list):
        for number, (ours, theirs) in enumerate(zip(given, understood, strict=True)):
            _require_same(ours, theirs, f"{place}[{number}]")
    elif given != understood:
        raise ValueError(f"{place}: {given!r} is understood as {understood!r}")


def main() -> None:
    """Print the fault of each file on the command line."""
    warnings.simplefilter("ignore")
    faults = {}
    for name in sys.argv[1:]:
        faults[name] = ""
        try:
            check(Path(name))
        except Exception as error:
            faults[name] = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(faults) + "\n")


if __name__ == "__main__":
    main()
