"""``python -m service.cli``: the ``solov2`` command, installed or not."""

from service.cli.main import app

app()
