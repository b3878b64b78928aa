"""What ``solov2`` can do.

Imports of torch and of what only one command needs stand inside the commands: ``serve`` has to
answer its health route within a second, and a serving image carries no training dependencies.
"""

import typer

from service.cli import benchmark, dataset
from service.cli.batch import batch
from service.cli.evaluate import evaluate
from service.cli.predict import predict
from service.cli.serve import serve
from service.cli.train import train
from service.cli.weights import convert, download

app = typer.Typer(
    name="solov2",
    help="SOLOv2 instance segmentation: serve it, use it, judge it, train it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (serve, predict, batch, evaluate, convert, download, train):
    app.command()(command)
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(dataset.app, name="dataset")
