"""The default model behind several servers on this machine, one after the other, as a table.

All of them get the same pictures, decoder, model, encoder and threads, and one process with the
model. The first line is the model alone, fed with decoded pictures: what a server cannot exceed
unless it decodes beside the model or fills its batches better.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from service.benchmark import Benchmark, ClosedLoop, Latency, Plan, Point, score_body
from service.photos import draw_photos, read_photos
from service.settings import Settings

ROOT = Path(__file__).parents[1]
SERVERS = ROOT / "tests" / "servers"
START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 30

HEADINGS = (
    "server",
    "images/s, 1 client",
    "images/s, saturated",
    "saturated / model alone",
    "p50 ms, 1 client",
    "p99 ms, 1 client",
    "p50 ms, saturated",
    "p99 ms, saturated",
    "errors",
    "`GET /` p99 ms, saturated",
)


@dataclass(frozen=True)
class Server:
    name: str
    command: tuple[str, ...]  # {port} stands for the port
    module: str | None = None  # what has to be installed


def servers() -> list[Server]:
    azure = str(Path(sys.executable).parent / "azmlinfsrv")
    entry = str(SERVERS / "azure_entry.py")
    return [
        Server("solov2 serve", (*_python("-m", "service.cli", "serve", "--port"), "{port}")),
        Server("plain FastAPI", (*_python(str(SERVERS / "plain_fastapi.py")), "{port}")),
        Server(
            "LitServe, batches of 8",
            (*_python(str(SERVERS / "litserve_batching.py")), "{port}"),
            "litserve",
        ),
        Server(
            "azureml-inference-server-http",
            (azure, "--entry_script", entry, "--port", "{port}"),
            "azureml_inference_server_http",
        ),
    ]


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, *arguments)


def model_alone(photos: list[bytes], duration_s: float) -> None:
    """Prints images/s of ``Predictor.predict`` in batches of its own size."""
    from model.decode import decode_image
    from model.predictor import Predictor

    predictor = Predictor.load(Settings().weights_path)
    size = predictor.max_batch_size
    pictures = [decode_image(photo) for photo in photos] * size
    batches = [pictures[i : i + size] for i in range(0, len(pictures), size)]
    for batch in batches[:2]:
        predictor.predict(batch)
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < duration_s:
        batch = batches[done // size % len(batches)]
        predictor.predict(batch)
        done += len(batch)
    print(done / elapsed)


def images_per_second_alone() -> float:
    """In a process of its own, that its threads are gone when the servers run."""
    command = [sys.executable, __file__, "--model-alone", *sys.argv[1:]]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment()).stdout
    return float(output.split()[-1])


def environment() -> dict[str, str]:
    """Torch chooses its threads, as it would in a deployment; this project comes first."""
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return {**kept, "PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def running(server: Server, photo: bytes, log: Path) -> Iterator[str]:
    """The address of the server, once it has scored a photo."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    command = [part.replace("{port}", port) for part in server.command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_it_scores(process, f"http://127.0.0.1:{port}", photo)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of its children too: some servers leave them behind, still computing."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until_it_scores(process: subprocess.Popen[bytes], url: str, photo: bytes) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    headers = {"content-type": "application/json"}
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.post(
                url + "/score", content=score_body(photo), headers=headers, timeout=60
            )
            if answer.status_code == httpx.codes.OK and "boxes" in answer.json()[0]:
                return
        time.sleep(0.5)
    raise RuntimeError(f"did not start (exit code {process.poll()})")


async def measure(url: str, photos: list[bytes], plan: Plan, clients: int) -> tuple[Point, Point]:
    """With one client, and with so many that the server always has work."""
    benchmark = Benchmark(url, photos, plan)
    return await benchmark.measure(ClosedLoop(1)), await benchmark.measure(ClosedLoop(clients))


def row(name: str, alone: float, single: Point, saturated: Point) -> list[str]:
    errors = sum(single.errors.values()) + sum(saturated.errors.values())
    health = saturated.health and saturated.health.latency
    return [
        name,
        f"{single.throughput:.1f}",
        f"{saturated.throughput:.1f}",
        f"{saturated.throughput / alone:.2f}",
        *percentiles(single.latency),
        *percentiles(saturated.latency),
        str(errors),
        f"{health.p99_ms:.0f}" if health else "-",
    ]


def percentiles(latency: Latency | None) -> tuple[str, str]:
    return (f"{latency.p50_ms:.0f}", f"{latency.p99_ms:.0f}") if latency else ("-", "-")


def print_row(cells: list[str] | tuple[str, ...]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def compare(arguments: argparse.Namespace, photos: list[bytes]) -> None:
    plan = Plan(arguments.warm_up, arguments.duration, probe=True)
    alone = images_per_second_alone()
    print_row(HEADINGS)
    print_row(["---", *["---:"] * (len(HEADINGS) - 1)])
    print_row(["model alone", "-", f"{alone:.1f}", "1.00", *["-"] * (len(HEADINGS) - 4)])
    skipped = []
    for server in servers():
        if server.module and importlib.util.find_spec(server.module) is None:
            skipped.append(f"{server.name}: {server.module} is not installed")
            continue
        log = arguments.logs / f"{server.name.split(',')[0].replace(' ', '-')}.log"
        try:
            with running(server, photos[0], log) as url:
                points = asyncio.run(measure(url, photos, plan, arguments.clients))
        except (RuntimeError, OSError) as error:
            skipped.append(f"{server.name}: {error}, see {log}")
            continue
        print_row(row(server.name, alone, *points))
    print(*(f"\nleft out: {reason}" for reason in skipped), sep="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="folder of pictures; drawn ones unless given")
    parser.add_argument("--clients", type=int, default=16, help="that saturate a server")
    parser.add_argument("--warm-up", type=float, default=3, metavar="SECONDS")
    parser.add_argument("--duration", type=float, default=20, metavar="SECONDS")
    parser.add_argument("--logs", type=Path, default=ROOT / "output", help="folder")
    parser.add_argument("--model-alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    photos = read_photos(arguments.photos) if arguments.photos else draw_photos()
    if arguments.model_alone:
        model_alone(photos, arguments.duration)
        return
    arguments.logs.mkdir(parents=True, exist_ok=True)
    compare(arguments, photos)


if __name__ == "__main__":
    main()
