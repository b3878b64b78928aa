"""Thousands of good, bad and broken-off requests to one server whose worker is killed in between.

Every well-formed request that stays connected must get its right answer, every bad one a 4xx, and
the memory of the server must not grow. Exits with 1 where that is not so.
"""

import argparse
import asyncio
import base64
import collections
import contextlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from serving import Server, serving, until
from tiny import save_tiny

CLIENTS = 24
KILLS = 3
SIZES = ((64, 48), (48, 64), (120, 90), (200, 40))
MAX_GROWTH = 1.10  # of the memory, from a quarter of the requests to the end


def picture(width: int, height: int, seed: int) -> str:
    grain = Image.frombytes(
        "RGB", (width, height), random.Random(seed).randbytes(width * height * 3)
    )
    buffer = io.BytesIO()
    grain.save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def table(*rows: object) -> dict[str, Any]:
    return {"input_data": {"columns": ["image"], "data": [*rows]}}


class Soak:
    """What is sent, and what became of it."""

    def __init__(self, server: Server, requests: int) -> None:
        self.server = server
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self._left = requests
        self._random = random.Random(0)
        self._pictures = [picture(*size, seed) for seed, size in enumerate(SIZES)]
        self._expected = [server.score(image).json()[0] for image in self._pictures]

    async def run(self, on_quarter: Callable[[int], None]) -> None:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(timeout=120, limits=limits) as client:
            clients = [asyncio.create_task(self._client(client)) for _ in range(CLIENTS)]
            quarter = self._left // 4
            for part in range(KILLS):
                while self._left > (KILLS - part) * quarter:
                    await asyncio.sleep(0.1)
                on_quarter(part)
            await asyncio.gather(*clients)

    async def _client(self, client: httpx.AsyncClient) -> None:
        while self._left > 0:
            self._left -= 1
            await self._random.choices(
                (self._good, self._bad, self._malformed, self._leaves), (70, 10, 10, 10)
            )[0](client)

    async def _good(self, client: httpx.AsyncClient) -> None:
        rows = self._random.choices(range(len(SIZES)), k=self._random.choice((1, 1, 1, 2, 5)))
        answer = await self._post(client, table(*(self._pictures[row] for row in rows)))
        while answer.status_code == 429:
            self.outcomes["429, sent again"] += 1
            await asyncio.sleep(int(answer.headers["retry-after"]))
            answer = await self._post(client, table(*(self._pictures[row] for row in rows)))
        right = answer.status_code == 200 and answer.json() == [self._expected[r] for r in rows]
        self._note("good", right, answer)

    async def _bad(self, client: httpx.AsyncClient) -> None:
        torn = self._pictures[0][: self._random.randrange(0, 600, 4)]
        answer = await self._post(client, table(self._pictures[1], torn))
        self._note("bad image", 400 <= answer.status_code < 500, answer)

    async def _malformed(self, client: httpx.AsyncClient) -> None:
        document = json.dumps(table(self._pictures[0])).encode()
        content = document[: self._random.randrange(len(document))]
        answer = await client.post(
            f"{self.server.url}/score",
            content=content,
            headers={"content-type": "application/json"},
        )
        self._note("malformed", 400 <= answer.status_code < 500, answer)

    async def _leaves(self, _: httpx.AsyncClient) -> None:
        port = int(self.server.url.rsplit(":", 1)[1])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        content = json.dumps(table(*self._pictures)).encode()
        head = b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        head += b"content-length: %d\r\n\r\n" % len(content)
        writer.write((head + content)[: self._random.randrange(2 * len(content))])
        with contextlib.suppress(OSError):
            await writer.drain()
            await asyncio.sleep(self._random.random() / 5)
            writer.close()
        self.outcomes["left"] += 1

    async def _post(self, client: httpx.AsyncClient, document: object) -> httpx.Response:
        return await client.post(f"{self.server.url}/score", json=document)

    def _note(self, kind: str, right: bool, answer: httpx.Response) -> None:
        self.outcomes[f"{kind}, {answer.status_code}"] += 1
        if not right:
            self.wrong.append(f"{kind}: {answer.status_code} {answer.text[:200]}")


def memory_mb(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def tiny_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        weights = save_tiny(Path(folder) / "tiny.safetensors")
        with serving(Path(folder), weights, SOLOV2_SCORE_THRESHOLD="0.6") as server:
            until(lambda: server.ask("/readyz") == 200)
            yield server


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    requests = parser.parse_args().requests
    with tiny_server() as server:
        soak = Soak(server, requests)
        memory: list[float] = []

        def quarter(part: int) -> None:
            memory.append(memory_mb(server.process.pid))
            [worker] = server.workers()
            sizes = f"HTTP process {memory[-1]:.0f} MB, worker {memory_mb(worker):.0f} MB"
            os.kill(worker, signal.SIGKILL)
            print(f"quarter {part + 1}: {sizes}, worker killed", flush=True)

        begun = time.monotonic()
        asyncio.run(soak.run(quarter))
        seconds = time.monotonic() - begun
        memory.append(memory_mb(server.process.pid))
        until(lambda: server.metric("solov2_inflight") == 0)
        held = server.metric("solov2_queue_bytes")
        restarts = server.metric('solov2_worker_restarts_total{device="cpu"}')
        server.process.terminate()
        code = server.process.wait(60)
    for outcome, count in sorted(soak.outcomes.items()):
        print(f"{count:7}  {outcome}")
    print(f"{seconds:.0f} s, HTTP process {memory[0]:.0f} -> {memory[-1]:.0f} MB, ", end="")
    print(f"{restarts:.0f} workers replaced, {held:.0f} bytes still held, exit code {code}")
    for line in soak.wrong[:10]:
        print("WRONG", line)
    grown = memory[-1] > MAX_GROWTH * memory[0]
    return int(bool(soak.wrong) or grown or restarts != KILLS or held > 0 or code != 0)


if __name__ == "__main__":
    sys.exit(main())
