import io
import json
import logging
from collections.abc import Iterator

import pytest

from service.logs import JsonFormatter, configure_logging, log_event


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # configuring closes what it replaces, and these are pytest's
    stream = io.StringIO()
    configure_logging(stream)
    yield stream
    root.handlers[:], root.level = handlers, level


def test_an_event_is_one_json_line_with_its_fields(lines: io.StringIO) -> None:
    log_event(logging.getLogger("service.x"), "request", status=200, path='/a"b\n')

    (line,) = lines.getvalue().splitlines()
    entry = json.loads(line)
    assert entry["event"] == "request"
    assert entry["level"] == "info"
    assert entry["logger"] == "service.x"
    assert entry["status"] == 200
    assert entry["path"] == '/a"b\n'
    assert entry["time"].endswith("+00:00")


def test_an_exception_stays_in_the_same_line(lines: io.StringIO) -> None:
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logging.getLogger("service.x").exception("it failed")

    (line,) = lines.getvalue().splitlines()
    assert "RuntimeError: boom" in json.loads(line)["traceback"]


def test_a_field_that_json_does_not_know_is_written_as_text() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "event", (), None)
    record.fields = {"value": complex(1, 2)}

    assert json.loads(JsonFormatter().format(record))["value"] == "(1+2j)"
