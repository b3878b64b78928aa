import base64
import io
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image
from serving import serving, until

from service.settings import Settings

ray = pytest.importorskip("ray", reason="needs the ray extra")

CONFIG = yaml.safe_load(
    (Path(__file__).parents[3] / "docker" / "ray" / "serve.yaml").read_text(encoding="utf-8")
)
APPLICATION = CONFIG["applications"][0]
THRESHOLD = 0.6
MAX_BODY_BYTES = 100_000

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's are not ours


def picture(seed: int, width: int = 64, height: int = 48) -> str:
    grain = random.Random(seed).randbytes(width * height * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (width, height), grain).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def table(*images: str) -> dict[str, Any]:
    return {"input_data": {"columns": ["image"], "data": [*images]}}


def replicas() -> int:
    """Workers that run."""
    from ray import serve

    deployments = serve.status().applications["solov2"].deployments
    return deployments["Worker"].replica_states.get("RUNNING", 0)


@pytest.fixture(scope="module")
def address(cluster: Any, tiny_weights: Path, add_machine: Callable[..., Any]) -> Iterator[str]:
    """The service as its file has it, with a small model on two machines."""
    from ray import serve
    from ray.serve.schema import ServeDeploySchema

    for _ in range(2):
        add_machine(cluster, processors=2)
    ray.init(cluster.address, log_to_driver=False, logging_level="error")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = dict(CONFIG, http_options={"host": "127.0.0.1", "port": port})
    web, worker = APPLICATION["deployments"]
    pace = {"upscale_delay_s": 1, "downscale_delay_s": 5}
    scaling = dict(worker["autoscaling_config"], max_replicas=2, **pace)
    few = {"num_cpus": 1, "num_gpus": 0}
    worker = dict(worker, ray_actor_options=few, autoscaling_config=scaling)
    web = dict(web, num_replicas=1)
    settings = {
        "weights": str(tiny_weights),
        "score_threshold": THRESHOLD,
        "max_body_bytes": 100_000,
    }
    config["applications"] = [dict(APPLICATION, args=settings, deployments=[web, worker])]
    serve.start(http_options=config["http_options"])
    serve.context._get_global_client().deploy_apps(ServeDeploySchema(**config))
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: status(url, "/readyz") == 200, 180)
        yield url
    finally:
        serve.shutdown()
        ray.shutdown()


def status(url: str, path: str) -> int:
    try:
        return httpx.get(url + path, timeout=10).status_code
    except httpx.TransportError:
        return 0


def test_the_deployment_is_what_ray_takes_and_names_settings_alone() -> None:
    from ray.serve.schema import ServeDeploySchema

    from service.cluster.ray_serve import build

    [application] = ServeDeploySchema(**CONFIG).applications
    build(application.args)

    assert application.import_path == f"{build.__module__}:{build.__name__}"
    target = application.deployments[1].autoscaling_config["target_ongoing_requests"]
    assert target == Settings().max_batch_size


def test_a_setting_that_does_not_exist_is_refused() -> None:
    from service.cluster.ray_serve import build
    from service.settings import SettingsError

    with pytest.raises(SettingsError, match="NONE"):
        build({"none": 1})


@pytest.mark.cluster
def test_every_answer_is_that_of_the_service_on_one_machine(
    address: str, tmp_path: Path, tiny_weights: Path
) -> None:
    limits = {
        "SOLOV2_SCORE_THRESHOLD": str(THRESHOLD),
        "SOLOV2_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    }
    bodies = [
        table(picture(0)),
        table(picture(1), picture(2, 120, 90), picture(3, 40, 200)),
        table(picture(1), "bm90IGEgcGhvdG8="),
        table(),
        {"input_data": {"columns": ["image"], "data": ["A" * (MAX_BODY_BYTES + 1)]}},
    ]
    paths = ["/", "/livez", "/readyz", "/swagger.json?version=3", "/none", "/score", "/metrics?"]

    with serving(tmp_path, tiny_weights, **limits) as alone:
        until(lambda: alone.ask("/readyz") == 200)
        expected = [answer(alone.url, "POST", "/score", body) for body in bodies]
        expected += [answer(alone.url, "GET", path) for path in paths]

    given = [answer(address, "POST", "/score", body) for body in bodies]
    given += [answer(address, "GET", path) for path in paths]
    assert given == expected
    assert [status for status, *_ in given[:5]] == [200, 200, 400, 400, 413]
    assert httpx.get(address).headers.get_list("x-request-id", split_commas=True)[1:] == []


def answer(url: str, method: str, path: str, body: Any = None) -> tuple[int, str, Any]:
    """Status, what kind of scoring it was, and the answer itself unless it counts something."""
    response = httpx.request(method, url + path, json=body, timeout=60)
    ran = response.headers.get("x-ms-run-function-failed", "")
    return response.status_code, ran, "" if path == "/metrics?" else response.text


@pytest.mark.cluster
def test_a_client_that_leaves_is_not_scored(address: str) -> None:
    body = table(*map(picture, range(16)))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{address}/score", json=body, timeout=httpx.Timeout(10, read=0.05))

    until(lambda: metric(address, "solov2_queue_bytes") == 0, 30)
    until(lambda: metric(address, "solov2_inflight") == 0, 30)


def metric(url: str, sample: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=10).text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{sample} ")), 0.0)


@pytest.mark.cluster
def test_workers_come_with_the_load_go_with_it_and_one_that_is_killed_takes_nothing_with_it(
    address: str,
) -> None:
    pictures = [picture(seed) for seed in range(4)]
    expected = [httpx.post(f"{address}/score", json=table(p), timeout=60).text for p in pictures]
    wrong: list[str] = []
    done: list[float] = []
    ended = threading.Event()

    def client(number: int) -> None:
        with httpx.Client(timeout=90) as session:
            while not ended.is_set():
                place = number % len(pictures)
                answer = session.post(f"{address}/score", json=table(pictures[place]))
                done.append(time.monotonic())
                if (answer.status_code, answer.text) != (200, expected[place]):
                    wrong.append(f"{answer.status_code} {answer.text[:200]}")

    clients = [threading.Thread(target=client, args=(number,)) for number in range(24)]
    for thread in clients:
        thread.start()
    try:
        until(lambda: replicas() == 2, 120)
        for _ in range(2):
            kill_a_worker()
            killed = time.monotonic()
            until(lambda: done[-1] > killed + 3, 60)  # noqa: B023
        until(lambda: replicas() == 2, 120)
    finally:
        ended.set()
        for thread in clients:
            thread.join()

    assert wrong == []
    assert len(done) > len(clients)
    until(lambda: replicas() == 1, 120)
    assert httpx.post(f"{address}/score", json=table(pictures[0]), timeout=60).text == expected[0]


def kill_a_worker() -> None:
    """As abruptly as kill -9, and while it has images."""
    named = ray.util.list_named_actors(all_namespaces=True)
    actor = next(a for a in named if a["name"].startswith("SERVE_REPLICA::solov2#Worker#"))
    ray.kill(ray.get_actor(actor["name"], actor["namespace"]))
