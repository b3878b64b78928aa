"""Put a running server under load and measure what it gives back.

A closed loop keeps N clients busy, each sending when its last answer came: it finds the most that
a server can do. An open loop sends at random moments whatever the server does, as the world would:
it finds the latency at a given rate.
"""

import asyncio
import base64
import itertools
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import httpx

_PROBE_INTERVAL_S = 0.1

#: Sends one image that was due at the given time of the event loop's clock.
Send = Callable[[float], Coroutine[None, None, None]]


class BenchmarkError(Exception):
    """Nothing can be measured; the text says why."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """So many clients, each with one image under way at all times."""

    clients: int

    async def run(self, send: Send, *, duration_s: float) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + duration_s

        async def client() -> None:
            while (now := clock()) < end:
                await send(now)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.clients):
                tasks.create_task(client())


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """So many images a second on average, at the moments of a Poisson process."""

    rate: float
    seed: int = 0

    def arrivals(self, duration_s: float) -> Iterator[float]:
        """Seconds from the start at which an image is due; the same for the same seed."""
        random_source = random.Random(self.seed)
        due = random_source.expovariate(self.rate)
        while due < duration_s:
            yield due
            due += random_source.expovariate(self.rate)

    async def run(self, send: Send, *, duration_s: float) -> None:
        clock = asyncio.get_running_loop().time
        start = clock()

        async with asyncio.TaskGroup() as tasks:
            for arrival in self.arrivals(duration_s):
                await asyncio.sleep(start + arrival - clock())
                tasks.create_task(send(start + arrival))


Load = ClosedLoop | OpenLoop


@dataclass(frozen=True, slots=True)
class Plan:
    """How each load is measured."""

    warm_up_s: float = 2
    duration_s: float = 10
    deadline_ms: float = 1000  # an answer after it is worth nothing to the client
    timeout_s: float = 60  # for one request
    probe: bool = False  # also ask GET / meanwhile, as a platform's liveness probe would


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds, by nearest rank: each is a latency that did occur."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Self | None:
        """None where there is nothing to take a percentile of."""
        if not milliseconds:
            return None
        ordered = sorted(milliseconds)
        return cls(*(ordered[math.ceil(len(ordered) * q) - 1] for q in (0.5, 0.95, 0.99, 1)))


@dataclass(frozen=True, slots=True)
class Health:
    """GET / during a load; ``failures`` are answers other than 2xx, and none at all."""

    requests: int
    failures: int
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class Point:
    """What a server did under one load.

    Rates are images with a 2xx answer inside the measured time, per second. Latency and errors
    are of the requests that became due in it, however late their answer: latency of 2xx answers,
    counted from when the request was due, errors by status or by the name of the failure.
    """

    clients: int | None  # of a closed loop
    rate: float | None  # offered by an open loop, images/s
    requests: int
    throughput: float
    goodput: float  # throughput of answers within the deadline
    latency: Latency | None
    errors: dict[str, int]
    mean_batch_size: float | None  # as the server counts; None where it does not
    health: Health | None

    @property
    def load(self) -> float:
        """Clients or images/s, whichever was given."""
        return self.clients or self.rate or 0


@dataclass(frozen=True, slots=True)
class Report:
    """All points of one server."""

    url: str
    plan: Plan
    points: tuple[Point, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON would give it back."""
        return {**asdict(self), "points": [asdict(point) for point in self.points]}


@dataclass(frozen=True, slots=True)
class Sample:
    """One request; times in seconds of the event loop's clock."""

    due: float
    done: float
    outcome: str  # the status code, or the name of what went wrong before there was one

    @property
    def succeeded(self) -> bool:
        return self.outcome.startswith("2")

    @property
    def latency_ms(self) -> float:
        return (self.done - self.due) * 1000


class Benchmark:
    """Measures one server, load after load.

    Args:
        url: Of the server, with or without ``/score`` at its end.
        images: Encoded pictures, sent in turn.
        plan: How each load is measured.
        transport: Instead of the network.
    """

    def __init__(
        self,
        url: str,
        images: Sequence[bytes],
        plan: Plan,
        *,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/score")
        self._bodies = itertools.cycle([score_body(image) for image in images])
        self._plan = plan
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._transport = transport

    async def require_server(self) -> None:
        """Raises BenchmarkError unless something answers at the address."""
        try:
            async with self._connect() as http:
                await http.get(self.url + "/")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise BenchmarkError(f"{self.url} cannot be reached: {error}") from error

    async def measure(self, load: Load) -> Point:
        """Warm up, measure, and wait for the answers that are still due."""
        plan = self._plan
        samples: list[Sample] = []
        start = asyncio.get_running_loop().time() + plan.warm_up_s
        async with self._connect() as http, asyncio.TaskGroup() as tasks:
            batch_size = tasks.create_task(self._mean_batch_size())
            health = tasks.create_task(self._probe()) if plan.probe else None

            async def send(due: float) -> None:
                samples.append(await self._send(http, due))

            await load.run(send, duration_s=plan.warm_up_s + plan.duration_s)
        return summarise(
            load,
            samples,
            plan,
            start=start,
            mean_batch_size=batch_size.result(),
            health=health.result() if health else None,
        )

    def _connect(self) -> httpx.AsyncClient:
        """As many connections as requests: none may wait for another's here."""
        return httpx.AsyncClient(
            timeout=self._plan.timeout_s,
            headers=self._headers,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            transport=self._transport,
            trust_env=False,
        )

    async def _send(self, http: httpx.AsyncClient, due: float) -> Sample:
        headers = {"content-type": "application/json"}
        try:
            answer = await http.post(
                self.url + "/score", content=next(self._bodies), headers=headers
            )
            outcome = str(answer.status_code)
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        return Sample(due, asyncio.get_running_loop().time(), outcome)

    async def _mean_batch_size(self) -> float | None:
        """Of the batches that ran in the measured time."""
        async with self._connect() as http:
            await asyncio.sleep(self._plan.warm_up_s)
            before = await self._batch_counts(http)
            await asyncio.sleep(self._plan.duration_s)
            after = await self._batch_counts(http)
        if before is None or after is None or after[1] <= before[1]:
            return None
        return (after[0] - before[0]) / (after[1] - before[1])

    async def _batch_counts(self, http: httpx.AsyncClient) -> tuple[float, float] | None:
        try:
            answer = await http.get(self.url + "/metrics")
        except httpx.HTTPError:
            return None
        return parse_batch_counts(answer.text) if answer.is_success else None

    async def _probe(self) -> Health:
        clock = asyncio.get_running_loop().time
        samples: list[Sample] = []
        async with self._connect() as http:
            await asyncio.sleep(self._plan.warm_up_s)
            end = clock() + self._plan.duration_s
            while (due := clock()) < end:
                try:
                    outcome = str((await http.get(self.url + "/")).status_code)
                except httpx.HTTPError as error:
                    outcome = type(error).__name__
                samples.append(Sample(due, clock(), outcome))
                await asyncio.sleep(_PROBE_INTERVAL_S)
        latencies = [sample.latency_ms for sample in samples if sample.succeeded]
        return Health(len(samples), len(samples) - len(latencies), Latency.of(latencies))


def summarise(
    load: Load,
    samples: Sequence[Sample],
    plan: Plan,
    *,
    start: float,
    mean_batch_size: float | None = None,
    health: Health | None = None,
) -> Point:
    """The figures of the time from ``start``, when the warm-up was over, to the plan's end."""
    end = start + plan.duration_s
    answered = [s for s in samples if s.succeeded and start <= s.done < end]
    in_time = [s for s in answered if s.latency_ms <= plan.deadline_ms]
    due = [s for s in samples if start <= s.due < end]
    return Point(
        clients=load.clients if isinstance(load, ClosedLoop) else None,
        rate=load.rate if isinstance(load, OpenLoop) else None,
        requests=len(due),
        throughput=len(answered) / plan.duration_s,
        goodput=len(in_time) / plan.duration_s,
        latency=Latency.of([s.latency_ms for s in due if s.succeeded]),
        errors=dict(Counter(s.outcome for s in due if not s.succeeded)),
        mean_batch_size=mean_batch_size,
        health=health,
    )


def parse_batch_counts(metrics: str) -> tuple[float, float] | None:
    """Images and batches so far in Prometheus's text, over all labels; None without either."""
    images = re.findall(r"^solov2_batch_size_sum\S* (\S+)", metrics, re.MULTILINE)
    batches = re.findall(r"^solov2_batch_size_count\S* (\S+)", metrics, re.MULTILINE)
    if not images or not batches:
        return None
    return sum(map(float, images)), sum(map(float, batches))


def score_body(image: bytes) -> bytes:
    """The body of POST /score for one encoded picture."""
    row = base64.b64encode(image).decode()
    return json.dumps({"input_data": {"columns": ["image"], "index": [0], "data": [row]}}).encode()
