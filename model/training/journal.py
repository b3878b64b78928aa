"""What a run says while it runs: a line for programs in a file, one for people on screen."""

import contextlib
import json
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Journal:
    """Appends to a JSON-lines file; shows a progress bar, or plain lines without a terminal.

    Args:
        path: The file; lines of iterations that are about to be repeated are removed.
        iteration: Where the run starts.
        total: Where it ends.
        board: Folder for TensorBoard's curves, which need its extra; none are written without.
    """

    def __init__(
        self, path: Path, *, iteration: int, total: int, board: Path | None = None
    ) -> None:
        self._board = None if board is None else _open_board(board, iteration)
        self._path = path
        self._total = total
        self._console = Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=total, completed=iteration)
        self._first, self._started = iteration, time.monotonic()
        _forget_after(path, iteration)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if self._board is not None:
            self._board.close()

    def advance(self, iteration: int) -> None:
        """Move the bar: ``iteration`` steps are done."""
        self._progress.update(self._task, completed=iteration)

    def write(self, iteration: int, **fields: Any) -> None:
        """Record ``fields`` after ``iteration`` steps."""
        line = json.dumps({"iteration": iteration, **fields})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        figures = {key: value for key, value in fields.items() if not isinstance(value, dict)}
        text = "  ".join(f"{key} {_short(value)}" for key, value in figures.items())
        if self._board is not None:
            for key, value in figures.items():
                self._board.add_scalar(key, value, iteration)
        self._progress.update(self._task, description=text)
        if not self._console.is_terminal:
            left = self._remaining_s(iteration)
            self._console.print(
                f"{iteration}/{self._total}  {text}  left {left:.0f} s", soft_wrap=True
            )

    def _remaining_s(self, iteration: int) -> float:
        elapsed = time.monotonic() - self._started
        return elapsed / max(1, iteration - self._first) * (self._total - iteration)


def _forget_after(path: Path, iteration: int) -> None:
    """Drop the lines that will be written again, and one that a killed run left unfinished."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            if json.loads(line)["iteration"] <= iteration:
                kept.append(line + "\n")
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("".join(kept), encoding="utf-8")
    unfinished.replace(path)


def _open_board(folder: Path, iteration: int) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:  # the one optional dependency of training
        raise ValueError(
            "TensorBoard is not installed; pip install 'solov2[tensorboard]' brings it"
        ) from error
    return SummaryWriter(folder, purge_step=iteration + 1)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
