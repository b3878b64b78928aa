"""Score one photo at a deployed endpoint, and check that the answer is Azure's.

    python docker/azureml/smoke.py PHOTO --subscription ID --resource-group NAME --workspace NAME

Needs azure-ai-ml and azure-identity, in an environment of their own. Exits with 0 when the endpoint
answers as it should.
"""

import argparse
import base64
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDES = {"topX", "topY", "bottomX", "bottomY"}


def main() -> int:
    """Do what the command line says; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", type=Path)
    parser.add_argument("--subscription", required=True)
    parser.add_argument("--resource-group", required=True)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--endpoint", default="solov2")
    parser.add_argument("--deployment", help="one deployment, whatever traffic it gets")
    given = parser.parse_args()

    # Here, not above: the rest of the file works without the SDK.
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    workspace = MLClient(
        DefaultAzureCredential(), given.subscription, given.resource_group, given.workspace
    )

    def invoke(request_file: str) -> str:
        return str(
            workspace.online_endpoints.invoke(
                given.endpoint, request_file=request_file, deployment_name=given.deployment
            )
        )

    try:
        instances = score(given.photo, invoke)
    except ValueError as error:
        sys.stderr.write(f"{given.endpoint} answers, but not as it should: {error}\n")
        return 1
    found = ", ".join(f"{instance['label']} {instance['score']:.2f}" for instance in instances)
    sys.stdout.write(f"{given.photo}: {found or 'nothing found'}\n")
    return 0


def score(photo: Path, invoke: Callable[[str], str]) -> list[dict[str, Any]]:
    """The instances that an endpoint finds in a photo.

    Args:
        photo: An encoded picture.
        invoke: Sends a file that holds a request, and returns the text of the answer.

    Raises:
        ValueError: The answer is not that of Azure's instance segmentation models.
    """
    row = base64.b64encode(photo.read_bytes()).decode()
    request = {"input_data": {"columns": ["image"], "index": [0], "data": [row]}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        answer = json.loads(invoke(str(file)))
    match answer:
        case [{"boxes": list(instances)}]:
            for instance in instances:
                _check(instance)
            return instances
        case _:
            raise ValueError(f"not one list of boxes for one image: {str(answer)[:200]}")


def _check(instance: dict[str, Any]) -> None:
    if set(instance) != {"box", "label", "score", "polygon"} or set(instance["box"]) != SIDES:
        raise ValueError(f"an instance has the keys {sorted(instance)}")
    if not instance["polygon"] or any(len(ring) < 6 for ring in instance["polygon"]):
        raise ValueError("an outline has fewer than three points")
    fractions = [*instance["box"].values(), *(x for ring in instance["polygon"] for x in ring)]
    if not all(0 <= fraction <= 1 for fraction in fractions):
        raise ValueError("a coordinate is no fraction of the picture's sides")


if __name__ == "__main__":
    sys.exit(main())
