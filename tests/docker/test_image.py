import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from deployments import ROOT

from service.settings import Settings

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions(name: str) -> list[str]:
    return re.findall(rf"^\s*{name}\s+(.*)$", DOCKERFILE, re.MULTILINE)


def test_its_labels_tell_the_version_and_the_licence_of_the_project() -> None:
    assert f"VERSION={PROJECT['version']}" in instructions("ARG")
    assert f'image.licenses="{PROJECT["license"]}"' in DOCKERFILE


def test_all_that_is_copied_is_sent_to_the_builder() -> None:
    sources = {
        source
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    sent = {line.removeprefix("!").rstrip("/") for line in IGNORED if line.startswith("!")}

    assert sources == sent
    assert all((ROOT / source).exists() for source in sources)


def test_both_targets_run_as_a_number_that_is_not_root() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    runtime = DOCKERFILE[DOCKERFILE.index(" AS runtime") :]

    assert [base for base, name in stages if name in ("cpu", "gpu")] == ["runtime", "runtime"]
    assert re.findall(r"^USER (.*)$", runtime, re.MULTILINE) == ["1000:1000"]


def test_it_exposes_the_port_that_the_service_listens_on() -> None:
    assert instructions("EXPOSE") == [str(Settings().port)]


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on a port of its own that knows /readyz alone."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_its_health_is_that_of_readyz_on_the_port_that_is_set(status: int, healthy: bool) -> None:
    [check] = instructions("HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    assert command[0] == "python"

    with answering(status) as port:
        result = subprocess.run(
            [sys.executable, *command[1:]], env={"SOLOV2_PORT": str(port)}, stderr=subprocess.PIPE
        )

    assert (result.returncode == 0) == healthy


def test_the_command_it_runs_is_one_that_the_package_installs() -> None:
    [command] = instructions("CMD")[-1:]

    assert json.loads(command)[0] in PROJECT["scripts"]


def test_the_scripts_beside_it_can_be_run() -> None:
    assert (ROOT / "docker" / "try_image").stat().st_mode & 0o111


def test_constraints_name_each_dependency_in_one_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1:]
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines)
    names = [re.match(r"[\w.-]+", text) for text in PROJECT["dependencies"]]

    assert {match[0] for match in names if match} <= pinned.keys()
    assert len(pinned) == len(lines)


def test_no_test_or_training_dependency_is_in_the_image() -> None:
    names = {re.split(r"[^\w-]", text)[0] for text in PROJECT["dependencies"]}

    assert not names & {"pycocotools", "faster-coco-eval", "pytest"}
    assert "--group" not in DOCKERFILE
    assert "optional-dependencies" not in DOCKERFILE
