"""``python -m service.worker``: how the dispatcher starts a worker.

Frames come in on standard input and go out on what was standard output. From here on whatever
prints, the imports below included, prints to standard error: among the frames it would be noise.
"""

import os
import time

STARTED = time.perf_counter()
ANSWERS = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)

import logging  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import BinaryIO, NoReturn  # noqa: E402

import cv2  # noqa: E402
import torch  # noqa: E402

from service.logs import configure_logging  # noqa: E402
from service.protocol import (  # noqa: E402
    Frame,
    Kind,
    WorkerInfo,
    WorkerStart,
    receive_frame,
    send_frame,
)
from service.settings import Settings  # noqa: E402
from service.worker.isolation import Isolation  # noqa: E402
from service.worker.lanes import Infer, SharedProcessors, count_lanes  # noqa: E402
from service.worker.pipeline import Pipeline  # noqa: E402
from service.worker.processors import available_processors  # noqa: E402
from service.worker.stages import WARM_UP_SIZES, Stages, load_predictor  # noqa: E402

logger = logging.getLogger(__name__)

_MAX_THREADS = 8  # of decoding, and of encoding


class _Answers:
    """One frame after the other, whichever thread sends it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, frame: Frame) -> None:
        try:
            with self._lock:
                send_frame(self._stream, frame)
        except OSError:  # the parent is gone
            os._exit(0)


def main() -> None:
    """Load the model that the first frame asks for, then answer until the parent is gone."""
    configure_logging(sys.stderr)
    answers = _Answers(ANSWERS)
    first = receive_frame(sys.stdin.buffer)
    if first is None:
        return
    start = WorkerStart.from_json(first.payload)
    try:
        pipeline, info, lanes = _load(start, answers)
    except ValueError as error:  # the weights or the device cannot be used
        answers.send(Frame(Kind.FATAL, payload=" ".join(str(error).split()).encode()))
        return
    _begin(lambda: _take_jobs(pipeline, sys.stdin.buffer))
    for _ in range(lanes - 1):
        _begin(lambda: pipeline.run(spare=True))
    answers.send(Frame(Kind.READY, payload=info.to_json()))
    # In this thread, which has the OpenMP threads of the warm-up. As soon as two threads together
    # had more of them than there are processors, all would sleep at every layer instead of waiting
    # awake, and a lone image take half as long again.
    _exit_after(pipeline.run)


def _load(start: WorkerStart, answers: _Answers) -> tuple[Pipeline, WorkerInfo, int]:
    """The pipeline, what it has become, and how many threads should run it."""
    settings = Settings.model_validate_json(start.settings)
    imported = time.perf_counter()
    predictor = load_predictor(settings, start.device)
    threads = _share_processors(start, predictor.device.type)
    loaded = time.perf_counter()
    predictor.warm_up(WARM_UP_SIZES)
    warm = time.perf_counter()
    device = _name(predictor.device)
    info = WorkerInfo(
        device=device,
        devices=_devices_of_its_kind(device),
        max_batch_size=min(predictor.max_batch_size, settings.max_batch_size),
        short_side=predictor.config.preprocess.short_side,
        long_side=predictor.config.preprocess.long_side,
        start_s={
            "import": round(imported - STARTED, 3),
            "load": round(loaded - imported, 3),
            "warm_up": round(warm - loaded, 3),
        },
    )
    infer: Infer = predictor.predict_batch
    lanes = 1
    if device == "cpu":
        processors = torch.get_num_threads()
        lanes = count_lanes(processors)
        infer = SharedProcessors(infer, processors, torch.set_num_threads)
    pipeline = Pipeline(
        Stages(predictor, settings),
        Isolation(infer, device),
        answers.send,
        max_batch_size=info.max_batch_size,
        max_batch_delay_s=settings.max_batch_delay_ms / 1000,
        threads=threads,
        device_memory=lambda: torch.cuda.max_memory_allocated(device) if device != "cpu" else 0,
        begin_thread=lambda: torch.set_num_threads(1),
    )
    return pipeline, info, lanes


def _name(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else f"{device.type}:{device.index or 0}"


def _share_processors(start: WorkerStart, device: str) -> int:
    """Set the threads of the libraries; return those for decoding and for encoding."""
    cv2.setNumThreads(1)  # pictures are worked on side by side already
    workers = len(_devices_of_its_kind(device)) if start.device == "auto" else start.workers
    share = max(1, available_processors() // workers)
    torch.set_num_threads(min(torch.get_num_threads(), share))  # fewer where OMP_NUM_THREADS says
    return 1 if device == "cpu" else min(share, _MAX_THREADS)


def _devices_of_its_kind(device: str) -> list[str]:
    """What ``auto`` stands for on this machine."""
    return [f"cuda:{n}" for n in range(torch.cuda.device_count())] if device != "cpu" else ["cpu"]


def _begin(work: Callable[[], None]) -> None:
    threading.Thread(target=_exit_after, args=(work,), daemon=True).start()


def _exit_after(work: Callable[[], None]) -> NoReturn:
    """Whatever ends a thread, a lost device or a bug, ends the process: another can go on."""
    try:
        work()
    except BaseException:
        logger.exception("this worker cannot go on")
        os._exit(1)
    os._exit(0)  # whoever waited for what the other threads are doing is gone


def _take_jobs(pipeline: Pipeline, questions: BinaryIO) -> None:
    while (frame := receive_frame(questions)) is not None:
        if frame.kind is Kind.IMAGE:
            pipeline.submit(frame.job, frame.payload)
        else:
            pipeline.cancel(frame.job)


if __name__ == "__main__":
    main()
