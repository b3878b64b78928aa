import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics

DASHBOARD = Path(__file__).parents[2] / "docker" / "grafana" / "solov2.json"
_SUFFIXES = re.compile(r"_(total|bucket|sum|count)$")


def names(metrics: Metrics) -> set[str]:
    return {family.name for family in text_string_to_metric_families(metrics.exposition().decode())}


def queried() -> set[str]:
    """The metrics that the dashboard's panels ask for."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    text = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    return {_SUFFIXES.sub("", name) for name in re.findall(r"solov2_\w+", text)}


def test_every_name_begins_with_the_products() -> None:
    assert all(name.startswith("solov2_") for name in names(Metrics()))


def test_what_one_application_counts_is_not_seen_in_another() -> None:
    one, other = Metrics(), Metrics()

    one.batch_retries.inc(3)

    assert b"solov2_batch_retries_total 3.0" in one.exposition()
    assert b"solov2_batch_retries_total 0.0" in other.exposition()


def test_the_dashboard_shows_every_metric_and_none_that_does_not_exist() -> None:
    assert queried() == names(Metrics())


def test_the_version_that_runs_is_told() -> None:
    assert re.search(rb'solov2_build_info{version="\d+\.\d+[^"]*"} 1.0', Metrics().exposition())
