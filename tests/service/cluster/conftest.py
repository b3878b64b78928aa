"""A Ray cluster of two machines, both of them this one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[3]
_MEMORY = 150 * 2**20  # of a machine's object store, bytes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Its head computes nothing; tests add the other machines."""
    utils = pytest.importorskip("ray.cluster_utils", reason="needs the ray extra")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("PYTHONPATH", os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    patch.setenv("OMP_NUM_THREADS", "1")
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _MEMORY}
    made = utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        yield made
    finally:
        made.shutdown()
        patch.undo()


def add_machine(cluster: Any, processors: int) -> Any:
    node = cluster.add_node(num_cpus=processors, object_store_memory=_MEMORY)
    cluster.wait_for_nodes()
    return node


@pytest.fixture(name="add_machine", scope="session")
def add_machine_fixture() -> Any:
    return add_machine
