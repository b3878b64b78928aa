"""``python -m service.worker``: how the dispatcher starts a worker.

Frames come in on standard input and go out on what was standard output. From here on whatever
prints, the imports below included, prints to standard error: among the frames it would be noise.
"""

import os

ANSWERS = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)

import contextlib  # noqa: E402
import sys  # noqa: E402

from service.logs import configure_logging  # noqa: E402
from service.protocol import Frame, Kind, receive_frame, send_frame  # noqa: E402
from service.settings import Settings  # noqa: E402
from service.worker.pipeline import answer_frames, load_pipeline  # noqa: E402


def main() -> int:
    """Load the model the first frame asks for, then answer until the parent is gone."""
    configure_logging(sys.stderr)
    questions = sys.stdin.buffer
    start = receive_frame(questions)
    if start is None:
        return 0
    with contextlib.suppress(BrokenPipeError):  # the parent was killed while we worked
        try:
            pipeline = load_pipeline(Settings.model_validate_json(start.payload))
        except ValueError as error:  # the weights or the device cannot be used
            send_frame(ANSWERS, Frame(Kind.FATAL, str(error).encode()))
            return 1
        send_frame(ANSWERS, Frame(Kind.READY))
        answer_frames(pipeline, questions, ANSWERS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
