import asyncio
import base64
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.batch.errors import BatchError
from service.batch.results import Result, ResultFile
from service.batch.scoring import run_batch
from service.batch.sources import Item
from service.dispatch.dispatcher import Health
from service.errors import BadImageError, ScoringError, ServiceError, UnavailableError
from service.protocol import EncodedImage
from service.settings import Settings

pytestmark = pytest.mark.anyio


class FakeDispatcher:
    """Answers after a moment, in no order; fails for images of some widths."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.failure: str | None = None
        self.refusing: str | None = None
        self.errors: dict[int, list[ServiceError]] = {}  # by width, one for each time
        self.events: list[str] = []
        self.waiting = 0
        self.most_waiting = 0
        self.scored = 0

    def make(self, settings: Settings) -> "FakeDispatcher":
        self.settings = settings
        return self

    async def start(self) -> None:
        self.events.append("started")

    async def stop(self) -> None:
        self.events.append("stopped")

    def health(self) -> Health:
        return Health(refusing=self.refusing)

    def submit(self, images: Sequence[EncodedImage]) -> list[asyncio.Future[bytes]]:
        return [asyncio.ensure_future(self._score(image)) for image in images]

    async def _score(self, image: EncodedImage) -> bytes:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        await asyncio.sleep(0.001 * (image.width % 3))
        self.waiting -= 1
        if errors := self.errors.get(image.width):
            raise errors.pop(0)
        self.scored += 1
        return b'{"boxes":[%d]}' % image.width


@pytest.fixture
def workers() -> FakeDispatcher:
    return FakeDispatcher()


@pytest.fixture
def picture(encode: Callable[..., bytes]) -> Callable[[int], bytes]:
    return lambda width: encode(Image.new("RGB", (width, 8)), "PNG")


@pytest.fixture
def run(tmp_path: Path, workers: FakeDispatcher) -> Callable[..., Any]:
    """Score items into a file; the value is its lines by name, each of which may come once."""

    async def run(items: Iterator[Item], settings: Settings | None = None) -> dict[str, Any]:
        path = tmp_path / "out.jsonl"
        with ResultFile(path) as results:
            await run_batch(
                items, results, settings or Settings(), lambda _: None, make_dispatcher=workers.make
            )
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert len({line["image"] for line in lines}) == len(lines)
        return {line.pop("image"): line for line in lines}

    return run


async def test_files_bytes_and_base64_all_get_the_answer_of_score(
    tmp_path: Path, run: Callable[..., Any], picture: Callable[[int], bytes]
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture(10))
    text = base64.b64encode(picture(12)).decode()

    lines = await run(iter([Item("a", file), Item("b", picture(11)), Item("c", text)]))

    assert lines == {"a": {"boxes": [10]}, "b": {"boxes": [11]}, "c": {"boxes": [12]}}


async def test_what_is_bad_about_an_image_is_its_line_and_stops_no_other(
    tmp_path: Path,
    run: Callable[..., Any],
    picture: Callable[[int], bytes],
    workers: FakeDispatcher,
) -> None:
    workers.errors = {20: [BadImageError("the image is damaged")], 21: [ScoringError()]}
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(101))
    os.mkfifo(tmp_path / "fifo")
    items = {
        "missing": tmp_path / "none.jpg",
        "large": large,
        "folder": tmp_path,
        "fifo": tmp_path / "fifo",
        "text": b"not a picture",
        "empty": "",
        "url": "http://169.254.169.254/a.jpg",
        "bad": BadImageError("the archive is damaged"),
        "damaged": picture(20),
        "ours": picture(21),
        "good": picture(9),
    }

    lines = await run(itertools.starmap(Item, items.items()), Settings(max_image_bytes=100))

    unreadable = "not a JPEG, PNG, BMP, TIFF, WebP or GIF image"
    assert {name: line.get("error") for name, line in lines.items()} == {
        "missing": "No such file or directory",
        "large": "the image has 101 bytes, more than the limit of 100",
        "folder": "not a file",
        "fifo": "not a file",
        "text": unreadable,
        "empty": "the image is empty",
        "url": "the image could not be fetched from its URL",
        "bad": "the archive is damaged",
        "damaged": "the image is damaged",
        "ours": str(ScoringError()),
        "good": None,
    }


async def test_images_refused_while_workers_are_replaced_are_sent_again(
    run: Callable[..., Any], picture: Callable[[int], bytes], workers: FakeDispatcher
) -> None:
    workers.errors = {9: [UnavailableError("the workers keep failing")] * 3}

    assert await run(iter([Item("a", picture(9))])) == {"a": {"boxes": [9]}}


async def test_workers_that_have_given_up_end_the_batch_and_leave_no_line(
    tmp_path: Path,
    run: Callable[..., Any],
    picture: Callable[[int], bytes],
    workers: FakeDispatcher,
) -> None:
    workers.failure, workers.refusing = "the weights are gone", "broken"

    with pytest.raises(BatchError, match="the weights are gone"):
        await run(iter([Item("a", picture(9))]))

    assert workers.events == ["started", "stopped"]
    assert (tmp_path / "out.jsonl").read_bytes() == b""


async def test_what_is_done_is_not_scored_again_nor_a_name_twice(
    run: Callable[..., Any], picture: Callable[[int], bytes], workers: FakeDispatcher
) -> None:
    first = [Item("a", picture(9)), Item("b", picture(10))]
    await run(iter([*first, *first]))

    lines = await run(iter([*first, Item("c", picture(11))]))

    assert set(lines) == {"a", "b", "c"}
    assert workers.scored == 3


async def test_no_model_is_loaded_where_nothing_is_left_to_do(
    run: Callable[..., Any], picture: Callable[[int], bytes], workers: FakeDispatcher
) -> None:
    await run(iter([Item("a", picture(9))]))
    workers.events.clear()

    await run(iter([Item("a", picture(9))]))

    assert workers.events == []


async def test_no_more_images_are_on_their_way_than_may_wait(
    run: Callable[..., Any], picture: Callable[[int], bytes], workers: FakeDispatcher
) -> None:
    taken = 0
    picture_of = picture(8)

    def items() -> Iterator[Item]:
        nonlocal taken
        for taken in range(1, 201):
            assert taken - len(done) <= 5 + 1  # and one that waits for its turn
            yield Item(str(taken), picture_of)

    done: list[Result] = []
    settings = Settings(max_queue_images=5)
    workers_settings = await run_with(items(), settings, workers, done)

    assert taken == len(done) == 200
    assert workers.most_waiting <= 5
    assert workers_settings.scoring_timeout_ms > 24 * 3600 * 1000


async def test_bytes_in_memory_are_bounded_and_one_image_always_fits(
    picture: Callable[[int], bytes], workers: FakeDispatcher
) -> None:
    data = picture(8)
    done: list[Result] = []
    settings = Settings(max_queue_bytes=2 * len(data), max_image_bytes=len(data))

    await run_with((Item(str(n), data) for n in range(50)), settings, workers, done)

    assert len(done) == 50
    assert workers.most_waiting <= 2


async def run_with(
    items: Iterator[Item], settings: Settings, workers: FakeDispatcher, done: list[Result]
) -> Settings:
    class Kept:
        def claim(self, name: str) -> bool:
            return True

        def append(self, result: Result) -> None: ...

    await run_batch(items, Kept(), settings, done.append, make_dispatcher=workers.make)  # type: ignore[arg-type]
    return workers.settings


async def test_an_input_that_cannot_be_read_on_ends_the_batch(
    run: Callable[..., Any], picture: Callable[[int], bytes], workers: FakeDispatcher
) -> None:
    def items() -> Iterator[Item]:
        yield Item("a", picture(9))
        raise PermissionError(13, "Permission denied", "/data/x")

    with pytest.raises(BatchError, match=r"cannot read /data/x \(Permission denied\)"):
        await run(items())

    assert workers.events == ["started", "stopped"]


def batch_command(weights: Path, photos: Path, out: Path) -> list[str]:
    script = "from service.cli import app; app()"
    options = ["--out", str(out), "--weights", str(weights), "--score-threshold", "0.999"]
    return [sys.executable, "-c", script, "batch", str(photos), *options]


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while lines_of(path) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def photos(tmp_path: Path, photo: bytes) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(photo if number % 10 else b"no photo")
    return folder


@pytest.mark.parametrize(
    ("ending", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)]
)
def test_a_batch_that_is_ended_goes_on_with_nothing_twice_and_nothing_missing(
    tmp_path: Path, tiny_weights: Path, photos: Path, ending: signal.Signals, code: int
) -> None:
    out = tmp_path / "out.jsonl"
    command = batch_command(tiny_weights, photos, out)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_for_lines(out, 8)  # the four bad ones come at once
        process.send_signal(ending)
        assert process.stderr is not None
        log = process.stderr.read()
        assert process.wait(30) == code
    assert b"Traceback" not in log
    before = lines_of(out)
    assert before < 40

    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert output.endswith(f"{40 - before} images, 0 errors, {before} were there before\n")
    names = [json.loads(line)["image"] for line in out.read_bytes().splitlines()]
    assert sorted(names) == sorted(path.name for path in photos.iterdir())
