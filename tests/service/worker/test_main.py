import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.protocol import (
    BatchReport,
    Frame,
    Kind,
    WorkerInfo,
    WorkerStart,
    receive_frame,
    send_frame,
    unpack_jobs,
)
from service.settings import Settings

_PATIENCE_S = 60  # a busy machine takes its time to import torch

NOISY = """
import os
from service.worker.__main__ import main
from service.worker.stages import Stages

decode = Stages.decode

def noisy_decode(self, data):
    print("noise", flush=True)
    os.system("echo noise of a child")
    return decode(self, data)

Stages.decode = noisy_decode
main()
"""

BROKEN = """
from model.predictor import Predictor
from service.worker.__main__ import main

warm_up = Predictor.warm_up

def lose_the_device(self, batch):
    raise SystemExit("the device is lost")

def break_when_warm(self, sizes):
    warm_up(self, sizes)
    Predictor.predict_batch = lose_the_device

Predictor.warm_up = break_when_warm
main()
"""


class Process:
    """A worker at the other end of two pipes."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def send(self, kind: Kind, job: int = 0, payload: bytes = b"") -> None:
        send_frame(self.stdin, Frame(kind, job, payload))

    def start(self, weights: Path, device: str = "cpu") -> Frame | None:
        settings = Settings(weights=weights, max_batch_size=3).model_dump_json()
        self.send(Kind.START, payload=WorkerStart(settings, device, 1).to_json())
        return self.receive()

    def receive(self) -> Frame | None:
        return receive_frame(self.stdout)

    def end(self) -> int:
        return self.process.wait(_PATIENCE_S)

    def errors(self) -> str:
        assert self.process.stderr
        return self.process.stderr.read().decode()


@contextmanager
def worker(*command: str) -> Iterator[Process]:
    process = Process(*(command or ("-P", "-m", "service.worker")))
    with process.process:
        try:
            yield process
        finally:
            process.process.kill()


@pytest.fixture(scope="module")
def ready(tiny_weights: Path) -> Iterator[tuple[Process, WorkerInfo]]:
    """One that several tests talk to, each with jobs of its own."""
    with worker() as process:
        frame = process.start(tiny_weights)
        assert frame
        assert frame.kind is Kind.READY
        yield process, WorkerInfo.from_json(frame.payload)


Ready = tuple[Process, WorkerInfo]


def answers(process: Process, size: int) -> dict[int, Frame]:
    """As many answers to images; STARTED and REPORT are checked on the way."""
    found: dict[int, Frame] = {}
    on_the_device = 0
    while len(found) < size or on_the_device:
        match process.receive():
            case Frame(Kind.STARTED, _, payload):
                on_the_device += len(unpack_jobs(payload))
            case Frame(Kind.REPORT, _, payload):
                on_the_device -= sum(BatchReport.from_json(payload).sizes)
            case Frame() as frame:
                found[frame.job] = frame
            case None:
                raise AssertionError("the worker closed its pipe")
    return found


def test_a_worker_says_what_it_has_become(ready: Ready) -> None:
    _, info = ready

    assert (info.device, info.devices, info.max_batch_size) == ("cpu", ["cpu"], 1)
    assert (info.long_side, info.short_side) == (128, 96)
    assert set(info.start_s) == {"import", "load", "warm_up"}
    assert all(0 < seconds < _PATIENCE_S for seconds in info.start_s.values())


def test_several_images_in_flight_are_all_answered(ready: Ready, photo: bytes) -> None:
    process, _ = ready
    for job in range(10, 15):
        process.send(Kind.IMAGE, job, b"no image" if job == 12 else photo)

    frames = answers(process, 5)

    assert frames[12].kind is Kind.BAD_IMAGE
    assert b"not a JPEG" in frames.pop(12).payload
    assert sorted(frames) == [10, 11, 13, 14]
    assert {frame.kind for frame in frames.values()} == {Kind.RESULT}
    assert len({frame.payload for frame in frames.values()}) == 1
    assert json.loads(frames[10].payload)["boxes"]


def test_a_job_given_up_harms_no_other(ready: Ready, photo: bytes) -> None:
    process, _ = ready
    process.send(Kind.IMAGE, 20, photo)
    process.send(Kind.IMAGE, 21, photo)
    process.send(Kind.CANCEL, 21)
    process.send(Kind.IMAGE, 22, photo)

    frames: dict[int, Frame] = {}
    while 22 not in frames:  # 21 may have been on the device already
        frames |= answers(process, 1)

    assert {frames[20].kind, frames[22].kind} == {Kind.RESULT}


def test_a_worker_ends_when_its_parent_does(tiny_weights: Path, photo: bytes) -> None:
    with worker() as process:
        process.start(tiny_weights)
        process.send(Kind.IMAGE, 1, photo)

        process.stdin.close()

        assert process.end() == 0
        assert "Traceback" not in process.errors()


def test_what_prints_does_not_print_among_the_frames(tiny_weights: Path, photo: bytes) -> None:
    with worker("-c", NOISY) as process:
        process.start(tiny_weights)
        process.send(Kind.IMAGE, 1, photo)

        assert answers(process, 1)[1].kind is Kind.RESULT

        process.stdout.close()  # and nobody listens any more
        process.send(Kind.IMAGE, 2, photo)
        assert process.end() == 0
        lines = process.errors().splitlines()
        assert {"noise", "noise of a child"} <= set(lines)


def test_a_lost_device_ends_the_process(tiny_weights: Path, photo: bytes) -> None:
    with worker("-c", BROKEN) as process:
        process.start(tiny_weights)
        process.send(Kind.IMAGE, 1, photo)

        assert process.end() == 1
        assert "the device is lost" in process.errors()


def test_a_frame_of_no_known_kind_ends_the_process(tiny_weights: Path) -> None:
    with worker() as process:
        process.start(tiny_weights)
        process.stdin.write(b"\x63" + bytes(8))
        process.stdin.flush()

        assert process.end() == 1
        assert "99 is not a valid Kind" in process.errors()


def test_weights_that_cannot_be_used_are_fatal_and_one_line_says_why(tmp_path: Path) -> None:
    weights = tmp_path / "torn.safetensors"
    weights.write_bytes(b"torn")

    with worker() as process:
        frame = process.start(weights)

        assert frame
        assert frame.kind is Kind.FATAL
        assert weights.name in frame.payload.decode()
        assert b"\n" not in frame.payload
        assert process.receive() is None
        assert process.end() == 0
