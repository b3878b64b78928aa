import functools
import ipaddress
import shutil
import subprocess
import tomllib
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deployments import DOCKER, documents, faults, settings_of
from starlette.testclient import TestClient

from service.metrics import Metrics
from service.settings import Settings
from service.web.app import create_app

KUBERNETES = DOCKER / "kubernetes"
CUSTOM = KUBERNETES / "components" / "operators"
OVERLAYS = ["base", "gpu", "operators", "gpu-operators"]
RELEASES = ["1.29", "1.37"]  # the oldest that the manifests are for, and the newest with a schema


@functools.cache
def build(overlay: str) -> list[dict[str, Any]]:
    """The resources of an overlay, as kustomize makes them."""
    for tool, arguments in (("kubectl", ["kustomize"]), ("kustomize", ["build"])):
        if shutil.which(tool):
            command = [tool, *arguments, str(KUBERNETES / overlay)]
            text = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            return [*yaml.safe_load_all(text)]
    pytest.skip("neither kubectl nor kustomize is installed")


def the(kind: str, resources: list[dict[str, Any]]) -> dict[str, Any]:
    [resource] = [resource for resource in resources if resource["kind"] == kind]
    return resource


def validate(resource: dict[str, Any], release: str) -> None:
    """Raise where the API of a release does not know the resource, or any of its fields."""
    kubernetes_validate.validate(resource, release, strict=True)


def base() -> list[dict[str, Any]]:
    """The base's own files; an overlay needs kustomize to be read."""
    names = documents(KUBERNETES / "base" / "kustomization.yaml")[0]["resources"]
    return [document for name in names for document in documents(KUBERNETES / "base" / name)]


def container(resources: list[dict[str, Any]]) -> dict[str, Any]:
    [only] = the("Deployment", resources)["spec"]["template"]["spec"]["containers"]
    return only


def environment(resources: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container(resources).get("env", [])}


@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_knows_every_field_of_the_base(release: str) -> None:
    for resource in base():
        validate(resource, release)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_knows_every_field_of_what_an_overlay_makes(overlay: str, release: str) -> None:
    custom = {"ScaledObject", "ServiceMonitor"}

    for resource in build(overlay):
        if resource["kind"] not in custom:
            validate(resource, release)


def test_a_field_that_kubernetes_does_not_know_would_be_found() -> None:
    service = the("Service", base())
    service["spec"]["port"] = 80

    with pytest.raises(kubernetes_validate.ValidationError):
        validate(service, RELEASES[0])


def test_the_operators_models_find_no_fault_in_the_custom_resources() -> None:
    assert faults([*CUSTOM.glob("s*.yaml")]) == {}


def test_only_what_needs_operators_is_outside_kubernetes_own_api() -> None:
    plain = {resource["kind"] for resource in build("base") + build("gpu")}
    with_operators = {resource["kind"] for resource in build("operators")}

    assert with_operators - plain == {"ScaledObject", "ServiceMonitor"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_variables_are_settings_and_a_pod_lives_longer_than_its_grace(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = build(overlay)

    settings = settings_of(environment(resources), monkeypatch)

    pod = the("Deployment", resources)["spec"]["template"]["spec"]
    assert settings.drain_delay_s < settings.grace_s < pod["terminationGracePeriodSeconds"]


def test_the_key_comes_from_a_secret_that_may_be_absent() -> None:
    [key] = [entry for entry in container(base())["env"] if entry["name"] == "SOLOV2_API_KEY"]

    assert "value" not in key
    assert key["valueFrom"]["secretKeyRef"]["optional"] is True


def test_probes_and_the_service_reach_the_port_that_the_service_listens_on(dispatcher: Any) -> None:
    resources = base()
    [port] = container(resources)["ports"]
    probes = {name: container(resources)[f"{name}Probe"]["httpGet"] for name in PROBES}

    with TestClient(create_app(Settings(), dispatcher)) as client:
        statuses = {name: client.get(probe["path"]).status_code for name, probe in probes.items()}

    assert port["containerPort"] == Settings().port
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert the("Service", resources)["spec"]["ports"][0]["targetPort"] == port["name"]
    assert statuses == dict.fromkeys(PROBES, 200)
    assert probes["liveness"]["path"] == "/livez"
    assert probes["readiness"]["path"] == "/readyz"


PROBES = ["startup", "liveness", "readiness"]


def test_everything_selects_the_same_pods() -> None:
    resources = base()
    deployment = the("Deployment", resources)["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    [monitor] = documents(CUSTOM / "service-monitor.yaml")

    assert deployment["selector"]["matchLabels"] == labels
    assert the("Service", resources)["spec"]["selector"] == labels
    assert the("PodDisruptionBudget", resources)["spec"]["selector"]["matchLabels"] == labels
    assert the("NetworkPolicy", resources)["spec"]["podSelector"]["matchLabels"] == labels
    assert (
        monitor["spec"]["selector"]["matchLabels"]
        == the("Service", resources)["metadata"]["labels"]
    )
    for constraint in deployment["template"]["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"] == labels


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_has_no_right_that_it_does_not_need(overlay: str) -> None:
    resources = build(overlay)
    pod = the("Deployment", resources)["spec"]["template"]["spec"]

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(resources)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_torch_finds_a_folder_for_temporary_files(overlay: str) -> None:
    resources = build(overlay)
    volumes = the("Deployment", resources)["spec"]["template"]["spec"]["volumes"]

    [place] = container(resources)["volumeMounts"]
    assert place["mountPath"] == "/tmp"
    assert [volume["name"] for volume in volumes if "emptyDir" in volume] == [place["name"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_exactly_one_thing_sets_the_number_of_pods(overlay: str) -> None:
    resources = build(overlay)
    setters = [
        r["kind"] for r in resources if r["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    ]
    if "replicas" in the("Deployment", resources)["spec"]:
        setters.append("replicas")

    assert len(setters) == 1


def test_the_autoscalers_name_the_deployment_and_leave_room_for_its_budget() -> None:
    name = the("Deployment", base())["metadata"]["name"]
    autoscaler = the("HorizontalPodAutoscaler", base())["spec"]
    [scaled] = documents(CUSTOM / "scaled-object.yaml")

    assert autoscaler["scaleTargetRef"]["name"] == scaled["spec"]["scaleTargetRef"]["name"] == name
    for smallest in (autoscaler["minReplicas"], scaled["spec"]["minReplicaCount"]):
        assert smallest > the("PodDisruptionBudget", base())["spec"]["maxUnavailable"]


def test_what_pods_are_scaled_by_is_a_metric_of_the_service() -> None:
    [scaled] = documents(CUSTOM / "scaled-object.yaml")
    [trigger] = scaled["spec"]["triggers"]
    metrics = Metrics()
    metrics.queue_depth.labels("any").set(1)

    assert trigger["metadata"]["query"] == "sum(solov2_queue_depth)"
    assert b"\nsolov2_queue_depth{" in metrics.exposition()


def test_prometheus_is_sent_to_the_metrics(dispatcher: Any) -> None:
    [monitor] = documents(CUSTOM / "service-monitor.yaml")
    [endpoint] = monitor["spec"]["endpoints"]

    with TestClient(create_app(Settings(), dispatcher)) as client:
        assert client.get(endpoint["path"]).status_code == 200
    assert endpoint["port"] == the("Service", base())["spec"]["ports"][0]["name"]


METADATA = ["169.254.169.254", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"]
PRIVATE = [
    "10.0.0.1",
    "172.31.0.1",
    "192.168.1.1",
    "127.0.0.1",
    "100.100.100.200",
    "fe80::1",
    "::1",
]


def leaves(address: str) -> bool:
    """Whether a pod may connect to an address that is not the cluster's name server."""
    ip = ipaddress.ip_address(address)
    blocks = [
        peer["ipBlock"]
        for rule in the("NetworkPolicy", base())["spec"]["egress"]
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    return any(
        ip in ipaddress.ip_network(block["cidr"])
        and not any(ip in ipaddress.ip_network(hole) for hole in block.get("except", []))
        for block in blocks
    )


@pytest.mark.parametrize("address", METADATA + PRIVATE)
def test_no_pod_reaches_a_metadata_or_private_address(address: str) -> None:
    assert not leaves(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "151.101.0.1", "2606:4700::1111"])
def test_a_pod_reaches_public_addresses(address: str) -> None:
    assert leaves(address)


def test_the_image_is_of_this_version() -> None:
    project = tomllib.loads((DOCKER.parent / "pyproject.toml").read_text(encoding="utf-8"))
    version = project["project"]["version"]
    tags = [
        documents(KUBERNETES / overlay / "kustomization.yaml")[0]["images"][0]["newTag"]
        for overlay in ("base", "gpu")
    ]

    assert tags == [f"{version}-cpu", f"{version}-gpu"]
