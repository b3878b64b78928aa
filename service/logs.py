"""Logs as JSON lines. No line ever holds image data, base64 or a query string."""

import logging
from datetime import UTC, datetime
from typing import TextIO

import orjson


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what the caller passed as fields stands beside the event."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def configure_logging(stream: TextIO) -> None:
    """Send every logger of this process to ``stream``, from level INFO on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def log_event(logger: logging.Logger, event: str, **fields: object) -> None:
    """Log at INFO with fields that stay fields."""
    logger.info(event, extra={"fields": fields})
