import asyncio
import json
import random
from collections.abc import Awaitable, Callable

import anyio
import httpx
import pytest

from service.benchmark import (
    Benchmark,
    BenchmarkError,
    ClosedLoop,
    Latency,
    OpenLoop,
    Plan,
    Report,
    Sample,
    parse_batch_counts,
    score_body,
    summarise,
)

pytestmark = pytest.mark.anyio

URL = "http://server"
PLAN = Plan(warm_up_s=0, duration_s=0.2)

Handler = Callable[[httpx.Request], Awaitable[httpx.Response]]


def benchmark(handler: Handler, plan: Plan = PLAN) -> Benchmark:
    return Benchmark(URL, [b"a picture"], plan, transport=httpx.MockTransport(handler))


async def score_slowly(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/metrics":
        return httpx.Response(404)
    await asyncio.sleep(0.01)
    return httpx.Response(200)


def slow_percentile(values: list[float], percent: int) -> float:
    """The smallest value that at least so many per cent of the values do not exceed."""
    for candidate in sorted(values):
        if sum(value <= candidate for value in values) * 100 >= percent * len(values):
            return candidate
    raise AssertionError


@pytest.mark.parametrize("count", [1, 2, 3, 20, 99, 100, 101, 200])
def test_percentiles_are_those_of_a_slow_search(count: int) -> None:
    source = random.Random(count)
    values = [float(source.randrange(50)) for _ in range(count)]

    latency = Latency.of(values)

    expected = (*(slow_percentile(values, percent) for percent in (50, 95, 99)), max(values))
    assert latency == Latency(*expected)


def test_no_answers_have_no_percentiles() -> None:
    assert Latency.of([]) is None


@pytest.mark.parametrize("clients", [1, 3])
async def test_a_closed_loop_keeps_exactly_its_clients_busy(clients: int) -> None:
    busy = most = 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal busy, most
        if request.url.path != "/score":
            return httpx.Response(404)
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.01)
        busy -= 1
        return httpx.Response(200)

    await benchmark(handler).measure(ClosedLoop(clients))

    assert most == clients


def test_an_open_loop_arrives_at_its_rate_with_the_spread_of_a_poisson_process() -> None:
    arrivals = list(OpenLoop(rate=50, seed=3).arrivals(duration_s=400))

    seconds = [sum(int(arrival) == second for arrival in arrivals) for second in range(400)]
    mean = sum(seconds) / 400
    variance = sum((count - mean) ** 2 for count in seconds) / 399
    assert mean == pytest.approx(50, rel=0.03)
    assert variance == pytest.approx(50, rel=0.25)


def test_the_same_seed_gives_the_same_arrivals_and_another_gives_others() -> None:
    first, again, other = (list(OpenLoop(20, seed).arrivals(5)) for seed in (1, 1, 2))

    assert first == again
    assert first != other


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    expected = len(list(OpenLoop(200).arrivals(0.2)))
    all_sent = anyio.Event()
    waiting = 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal waiting
        if request.url.path == "/score":
            waiting += 1
            if waiting == expected:
                all_sent.set()
            await all_sent.wait()
        return httpx.Response(200)

    with anyio.fail_after(10):
        await benchmark(handler).measure(OpenLoop(200))

    assert waiting == expected


async def test_errors_are_counted_by_status_or_by_what_went_wrong() -> None:
    turn = 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal turn
        await asyncio.sleep(0.001)
        if request.url.path != "/score":
            return httpx.Response(404)
        turn += 1
        if turn % 3 == 0:
            raise httpx.ReadTimeout("too slow")
        return httpx.Response(503 if turn % 3 == 1 else 200)

    point = await benchmark(handler).measure(ClosedLoop(1))

    assert set(point.errors) == {"503", "ReadTimeout"}
    assert abs(point.errors["503"] - point.errors["ReadTimeout"]) <= 1
    assert sum(point.errors.values()) < point.requests


def test_only_what_belongs_to_the_measured_time_counts() -> None:
    plan = Plan(duration_s=2, deadline_ms=500)
    samples = [
        Sample(due=9.5, done=9.9, outcome="200"),  # in the warm-up
        Sample(due=9.9, done=10.2, outcome="200"),  # answered in the time, due before it
        Sample(due=10.5, done=10.75, outcome="200"),
        Sample(due=10.5, done=11.5, outcome="200"),  # after its deadline
        Sample(due=11.0, done=11.1, outcome="503"),
        Sample(due=11.5, done=15.5, outcome="200"),  # due in the time, answered after it
    ]

    point = summarise(OpenLoop(2), samples, plan, start=10)

    assert (point.requests, point.errors) == (4, {"503": 1})
    assert (point.throughput, point.goodput) == (1.5, 1.0)
    assert point.latency == Latency(1000, 4000, 4000, 4000)


def test_batch_counts_are_added_up_over_the_labels() -> None:
    metrics = (
        "# TYPE solov2_batch_size histogram\n"
        'solov2_batch_size_bucket{le="1.0"} 4\n'
        'solov2_batch_size_sum{device="cuda:0"} 30.0\n'
        'solov2_batch_size_count{device="cuda:0"} 10\n'
        'solov2_batch_size_sum{device="cuda:1"} 1e1\n'
        'solov2_batch_size_count{device="cuda:1"} 6\n'
    )

    assert parse_batch_counts(metrics) == (40, 16)
    assert parse_batch_counts("process_open_fds 9\n") is None


async def test_the_mean_batch_size_is_that_of_the_measured_time() -> None:
    texts = iter(
        [
            "solov2_batch_size_sum 100\nsolov2_batch_size_count 100\n",
            "solov2_batch_size_sum 160\nsolov2_batch_size_count 120\n",
        ]
    )

    async def handler(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.001)
        return httpx.Response(200, text=next(texts) if request.url.path == "/metrics" else "")

    point = await benchmark(handler).measure(ClosedLoop(1))

    assert point.mean_batch_size == 3


async def test_a_server_without_metrics_has_no_batch_size() -> None:
    point = await benchmark(score_slowly).measure(ClosedLoop(1))

    assert point.mean_batch_size is None


async def test_the_probe_asks_for_the_servers_health_under_load() -> None:
    plan = Plan(warm_up_s=0, duration_s=0.3, probe=True)

    point = await benchmark(score_slowly, plan).measure(ClosedLoop(1))

    assert point.health is not None
    assert point.health.requests >= 1
    assert point.health.failures == 0
    assert point.health.latency is not None


async def test_a_report_survives_json() -> None:
    points = [await benchmark(score_slowly).measure(load) for load in (ClosedLoop(2), OpenLoop(50))]

    report = Report(URL, PLAN, tuple(points)).to_dict()

    assert json.loads(json.dumps(report)) == report
    assert [point["clients"] for point in report["points"]] == [2, None]


async def test_a_server_that_is_not_there_is_named() -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(BenchmarkError, match="http://server cannot be reached: refused"):
        await benchmark(handler).require_server()


async def test_pictures_are_sent_in_turn_as_the_score_route_takes_them() -> None:
    bodies: list[bytes] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.001)
        if request.url.path == "/score":
            bodies.append(request.content)
        return httpx.Response(200)

    transport = httpx.MockTransport(handler)
    await Benchmark(URL + "/score", [b"one", b"two"], PLAN, transport=transport).measure(
        ClosedLoop(1)
    )

    assert bodies[:3] == [score_body(b"one"), score_body(b"two"), score_body(b"one")]
    assert json.loads(bodies[0])["input_data"] == {
        "columns": ["image"],
        "index": [0],
        "data": ["b25l"],
    }
