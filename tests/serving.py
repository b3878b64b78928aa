"""A real server process for tests, and what an operator does with one."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

SERVE = "from service.cli import app; app(['serve'])"


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    url: str
    log: Path
    errors: Path

    def ask(self, path: str) -> int:
        """The status of a GET; 0 while nobody listens."""
        try:
            return httpx.get(self.url + path, timeout=5).status_code
        except httpx.TransportError:
            return 0

    def score(self, *images: str) -> httpx.Response:
        request = {"input_data": {"columns": ["image"], "data": [[image] for image in images]}}
        return httpx.post(f"{self.url}/score", json=request, timeout=30)

    def metric(self, sample: str) -> float:
        """A sample of /metrics, such as ``solov2_oom_total``; 0 where there is none."""
        lines = httpx.get(f"{self.url}/metrics", timeout=5).text.splitlines()
        values = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return next((float(value) for name, value in values if name == sample), 0.0)

    def workers(self) -> list[int]:
        """Their process ids."""
        id_ = self.process.pid
        children = Path(f"/proc/{id_}/task/{id_}/children").read_text().split()
        return [int(child) for child in children]


@contextmanager
def serving(folder: Path, weights: Path, script: str = SERVE, **variables: str) -> Iterator[Server]:
    """A server on a free port of this machine; killed at the end, if it still runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log, errors = folder / "log.txt", folder / "errors.txt"
    environment = {
        "SOLOV2_HOST": "127.0.0.1",
        "SOLOV2_PORT": str(port),
        "SOLOV2_WEIGHTS": str(weights),
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            env=os.environ | environment | variables,
            stdout=stdout,
            stderr=stderr,
        )
    try:
        yield Server(process, f"http://127.0.0.1:{port}", log, errors)
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(process_id: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process_id}/stat").read_text().split(") ")[1][0] != "Z"
    return False
