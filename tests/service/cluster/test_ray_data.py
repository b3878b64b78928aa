import base64
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run
from PIL import Image
from serving import until

from service.batch.errors import BatchError
from service.batch.results import Result, ResultFile
from service.batch.sources import open_source
from service.settings import Settings

ray_data = pytest.importorskip("service.cluster.ray_data", reason="needs the ray extra")

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's are not ours

THRESHOLD = 0.6


def picture(seed: int) -> bytes:
    width, height = random.Random(seed).choice([(32, 24), (24, 32), (32, 32)])
    grain = random.Random(seed).randbytes(width * height * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (width, height), grain).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """300 pictures, one of them none."""
    path = tmp_path / "pictures"
    (path / "below").mkdir(parents=True)
    for seed in range(299):
        (path / "below" / f"{seed}.jpg").write_bytes(picture(seed % 7))
    (path / "none.jpg").write_bytes(b"no picture")
    return path


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines())


def batch(source: object, out: Path, weights: Path, *options: object) -> tuple[int, str]:
    given = ("--weights", weights, "--score-threshold", THRESHOLD)
    return run("batch", source, "--out", out, *given, *options)


@pytest.mark.cluster
def test_a_machine_killed_half_way_loses_nothing_and_doubles_nothing(
    cluster: Any,
    add_machine: Callable[..., Any],
    folder: Path,
    tmp_path: Path,
    tiny_weights: Path,
) -> None:
    alone = tmp_path / "alone.jsonl"
    batch(folder, alone, tiny_weights)
    settings = Settings(weights=tiny_weights, score_threshold=THRESHOLD)
    source = open_source(str(folder), column="image", max_image_bytes=settings.max_image_bytes)
    doomed = add_machine(cluster, processors=1)  # the only one yet, so that all is there
    written: list[str] = []

    def note(result: Result) -> None:
        written.append(result.name)
        if len(written) == 100:
            add_machine(cluster, processors=1)
            cluster.remove_node(doomed, allow_graceful=False)

    with ResultFile(tmp_path / "out.jsonl") as results:
        ray_data.run_batch(source.items, results, settings, note, cluster.address)

    assert len(written) == 300
    assert lines(tmp_path / "out.jsonl") == lines(alone)


@pytest.mark.cluster
def test_a_command_that_is_killed_goes_on_where_it_was(
    cluster: Any,
    add_machine: Callable[..., Any],
    folder: Path,
    tmp_path: Path,
    tiny_weights: Path,
) -> None:
    add_machine(cluster, processors=2)
    out = tmp_path / "out.jsonl"
    command = ["batch", str(folder), "--out", str(out), "--weights", str(tiny_weights)]
    command += ["--score-threshold", str(THRESHOLD), "--engine", "ray"]
    command += ["--address", cluster.address]
    first = subprocess.Popen([sys.executable, "-m", "service.cli", *command])
    until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 60, 180)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = out.read_bytes()

    again = subprocess.run(
        [sys.executable, "-m", "service.cli", *command], capture_output=True, text=True, check=True
    )

    found = before.count(b"\n")
    errors = b"none.jpg" not in before
    said = f"{300 - found} images, {int(errors)} errors, {found} were there before"
    assert said in again.stdout
    assert out.read_bytes().startswith(before[: before.rfind(b"\n")])
    subprocess.run([sys.executable, "-m", "service.cli", *command], check=True)  # nothing is left
    assert batch(folder, tmp_path / "alone.jsonl", tiny_weights)[0] == 0
    assert lines(out) == lines(tmp_path / "alone.jsonl")


@pytest.mark.cluster
def test_every_kind_of_input_gives_the_lines_of_one_machine(
    cluster: Any,
    add_machine: Callable[..., Any],
    tmp_path: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_machine(cluster, processors=1)
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_weights, weights := Path("weights.safetensors"))  # a relative path as well
    Path("a.jpg").write_bytes(picture(1))
    Path("list.txt").write_text("a.jpg\nnone.jpg\nhttp://169.254.169.254/a.jpg\na.jpg\n")
    text = base64.b64encode(picture(2)).decode()
    Path("table.csv").write_text(f"image\n{text}\na.jpg\n\nnot base64\n")
    with tarfile.open("shard-0.tar", "w") as tar:
        tar.add("a.jpg")
    Path("shard-1.tar").write_bytes(Path("shard-0.tar").read_bytes()[:700])

    engine = ("--engine", "ray", "--address", cluster.address)
    for given in ("list.txt", "table.csv", "shard-*.tar", "a.jpg"):
        alone, many = Path(f"alone-{given[:4]}"), Path(f"many-{given[:4]}")
        code, _ = batch(given, alone, weights)
        assert code == 0
        code, output = batch(given, many, weights, *engine)
        assert (code, lines(many)) == (0, lines(alone)), output


@pytest.mark.cluster
@pytest.mark.parametrize("wrong", ["input", "weights"])
def test_what_ends_a_batch_is_told_in_one_line(
    cluster: Any,
    add_machine: Callable[..., Any],
    tmp_path: Path,
    tiny_weights: Path,
    wrong: str,
) -> None:
    add_machine(cluster, processors=1)
    listed, weights = tmp_path / "list.txt", tmp_path / "bad.safetensors"
    listed.write_text("a.jpg\n" + "x" * 5000)
    weights.write_bytes(b"no weights")
    engine = ("--engine", "ray", "--address", cluster.address)

    if wrong == "input":
        code, output = batch(listed, tmp_path / "out", tiny_weights, *engine)
        expected = "line 2 is neither a path nor a URL"
    else:
        listed.write_text("a.jpg\n")
        code, output = batch(listed, tmp_path / "out", weights, *engine)
        expected = "bad.safetensors"

    assert code == 1
    assert expected in output.splitlines()[-1]


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "127.0.0.1"])
def test_a_cluster_that_cannot_be_reached_is_told_in_one_line(
    address: str, tmp_path: Path, tiny_weights: Path
) -> None:
    source = open_source(str(tmp_path), column="image", max_image_bytes=1)

    with (
        ResultFile(tmp_path / "out.jsonl") as results,
        pytest.raises(BatchError, match=address) as error,
    ):
        ray_data.run_batch(
            source.items, results, Settings(weights=tiny_weights), lambda _: None, address
        )

    assert "\n" not in str(error.value)


def test_rows_come_in_the_order_of_the_items_with_what_is_in_their_files(tmp_path: Path) -> None:
    items = ray_data.Item
    for seed in range(40):
        (tmp_path / str(seed)).write_bytes(picture(seed))
    given = [items(str(seed), tmp_path / str(seed)) for seed in range(40)]
    given += [items("url", "http://a/b"), items("bytes", b"c"), items("none", tmp_path / "none")]

    rows = list(ray_data._read_ahead(given, Settings()))

    assert rows[:40] == [{"name": str(seed), "data": picture(seed)} for seed in range(40)]
    assert rows[40:] == [
        {"name": "url", "text": "http://a/b"},
        {"name": "bytes", "data": b"c"},
        {"name": "none", "error": "No such file or directory"},
    ]
    assert json.dumps(rows[40])


def test_what_goes_together_is_limited_in_images_and_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_data, "_MAX_BYTES", 10)
    small = [{"name": str(n), "error": "bad"} for n in range(70)]
    large = [{"name": "a", "data": b"12345"}, {"name": "b", "text": "123456"}, {"name": "c"}]

    groups = [*ray_data._grouped(iter([*small, *large]))]

    assert [len(group) for group in groups] == [64, 8, 1]
    assert [row for group in groups for row in group] == [*small, *large]


def test_images_that_go_together_arrive_as_they_were_sent() -> None:
    rows = [{"name": "a", "data": b"1"}, {"name": "b", "error": "bad"}]

    [first, second] = ray_data._unpacked(ray_data._packed(rows, ray_data._ITEM))

    assert first == {"name": "a", "data": b"1", "text": None, "error": None}
    assert second["error"] == "bad"
