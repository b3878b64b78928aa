import re
from typing import Any

import pytest
from deployments import DOCKER, ROOT, documents, settings_of

from service.settings import Settings

[COMPOSE] = documents(ROOT / "compose.yaml")
SERVICE: dict[str, Any] = COMPOSE["services"]["solov2"]


def mounts(name: str) -> dict[str, str]:
    """Place in the container -> path in the repository, of what is mounted from it."""
    parts = [volume.split(":") for volume in COMPOSE["services"][name]["volumes"]]
    return {place: source for source, place, *_ in parts if source.startswith("./")}


def test_its_variables_are_settings_and_it_stops_after_its_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blank = {
        name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
        for name, value in SERVICE["environment"].items()
    }

    settings = settings_of(blank, monkeypatch)

    assert settings == Settings()
    assert float(SERVICE["stop_grace_period"].removesuffix("s")) > settings.grace_s


def test_torch_finds_a_folder_for_temporary_files() -> None:
    assert SERVICE["read_only"] is True
    assert SERVICE["tmpfs"] == ["/tmp"]


def test_what_it_builds_and_publishes_exists() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE))

    assert re.fullmatch(r"\$\{TARGET:-(\w+)\}", SERVICE["build"]["target"])[1] in targets
    assert SERVICE["ports"] == [f"127.0.0.1:{Settings().port}:{Settings().port}"]


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_what_it_mounts_is_there(name: str) -> None:
    assert mounts(name)
    assert all((ROOT / path).exists() for path in mounts(name).values())


def test_prometheus_asks_the_service_and_grafana_asks_prometheus() -> None:
    [scraping] = documents(DOCKER / "prometheus" / "prometheus.yml")
    [source] = documents(DOCKER / "grafana/provisioning/datasources/prometheus.yml")

    [job] = scraping["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"solov2:{Settings().port}"]}]
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert {"solov2", "prometheus"} <= COMPOSE["services"].keys()


def test_grafana_looks_for_the_dashboard_where_it_is_mounted() -> None:
    [dashboards] = documents(DOCKER / "grafana/provisioning/dashboards/solov2.yml")
    folder = dashboards["providers"][0]["options"]["path"]
    home = COMPOSE["services"]["grafana"]["environment"][
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"
    ]

    assert mounts("grafana")[home] == "./docker/grafana/solov2.json"
    assert home.startswith(f"{folder}/")
