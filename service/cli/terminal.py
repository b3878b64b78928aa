"""What commands say to whoever runs them."""

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

console = Console()


def fail(reason: object) -> NoReturn:
    """End with one line on standard error and exit code 1."""
    sys.stderr.write(f"solov2: {reason}\n")
    raise typer.Exit(1)


def say(text: object) -> None:
    """One line, whatever a path in it looks like and however narrow the terminal is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def train_extra() -> Iterator[None]:
    """Import in here what a serving installation does not have."""
    try:
        yield
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; pip install 'solov2[train]' brings it")


def progress_bar(*figures: ProgressColumn, remaining: bool = True) -> Progress:
    """A bar with those figures on the terminal; nothing where there is none."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *figures,
        *([TimeRemainingColumn()] if remaining else []),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
