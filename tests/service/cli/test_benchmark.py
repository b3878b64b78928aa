import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import pytest
from commands import run

from service.dispatch.dispatcher import Dispatcher
from service.settings import Settings


def test_benchmark_of_a_model_names_stages_and_writes_figures(
    weights: Path, photo: Path, tmp_path: Path
) -> None:
    out, trace = tmp_path / "model.json", tmp_path / "trace.json"
    options = ("--weights", weights, "--repeats", 1, "--threads", 1, "--out", out)

    code, output = run("benchmark", "model", photo, *options, "--trace", trace)

    assert code == 0, output
    assert "matrix nms" in output
    assert "GFLOP/s" in output
    figures = json.loads(out.read_text())
    assert figures["flops"] > 0
    assert set(figures["ratios"]) == {"network", "postprocess", "total"}
    assert trace.is_file()


def test_benchmark_of_a_model_resizes_the_photo_as_asked(
    weights: Path, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.json"
    options = ("--weights", weights, "--repeats", 1, "--size", "200x100", "--out", out)

    code, output = run("benchmark", "model", photo, *options)

    assert code == 0, output
    figures = json.loads(out.read_text())
    assert (figures["size"], figures["canvas"]) == ([100, 200], [64, 128])


@pytest.mark.parametrize("size", ["800", "0x800", "800x", "axb"])
def test_a_size_that_is_none_is_refused(weights: Path, photo: Path, size: str) -> None:
    code, output = run("benchmark", "model", photo, "--weights", weights, "--size", size)

    assert code == 1
    assert output.startswith("solov2: --size takes a width and a height")


def test_benchmark_of_an_unknown_variant_names_those_there_are(photo: Path) -> None:
    code, output = run("benchmark", "model", photo, "--variant", "r51")

    assert code == 1
    assert "r50_3x" in output


def test_benchmark_of_a_server_writes_table_figures_and_plot(
    serve_in_thread: Callable[[Settings, Dispatcher], AbstractContextManager[str]],
    dispatcher: Dispatcher,
    tmp_path: Path,
) -> None:
    out, plot = tmp_path / "load.json", tmp_path / "load.png"
    times = ("--warm-up", 0, "--duration", 1)

    with serve_in_thread(Settings(), dispatcher) as url:
        code, output = run(
            *("benchmark", "http", url, "--concurrency", "1,2", "--rate", 20, *times),
            *("--probe", "--out", out, "--plot", plot),
        )

    assert code == 0, output
    assert "2 clients" in output
    points = json.loads(out.read_text())["points"]
    assert [(point["clients"], point["rate"]) for point in points] == [
        (1, None),
        (2, None),
        (None, 20),
    ]
    assert all(point["requests"] > 0 and not point["errors"] for point in points)
    assert cv2.imread(str(plot)).shape == (360, 4 * 480, 3)


def test_benchmark_of_a_server_that_is_not_there_is_one_line() -> None:
    code, output = run("benchmark", "http", "http://127.0.0.1:9")

    assert code == 1
    assert output.startswith("solov2: http://127.0.0.1:9 cannot be reached")
    assert output.count("\n") == 1


@pytest.mark.parametrize("loads", ["0", "-1", "two", "1,2.5"])
def test_a_load_that_is_no_number_of_clients_is_refused(loads: str) -> None:
    code, output = run("benchmark", "http", "http://127.0.0.1:9", "--concurrency", loads)

    assert code == 1
    assert output.startswith("solov2: --concurrency and --rate take numbers")


def test_a_server_that_asks_for_a_key_is_sent_that_of_the_settings(
    serve_in_thread: Callable[[Settings, Dispatcher], AbstractContextManager[str]],
    dispatcher: Dispatcher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOLOV2_API_KEY", "s3cret")
    out = tmp_path / "load.json"
    load = ("--concurrency", 1, "--warm-up", 0, "--duration", 0.2)

    with serve_in_thread(Settings.load(), dispatcher) as url:
        code, _ = run("benchmark", "http", url, *load, "--out", out)

    assert code == 0
    assert json.loads(out.read_text())["points"][0]["errors"] == {}
