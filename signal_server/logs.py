"""What the server logs, as lines for people or as JSON for programs."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from aiohttp.http_exceptions import HttpProcessingError


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, ``exception`` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line)


def set_up(level: str, format: str) -> None:
    """Log to standard error: this server's messages of at least this level, and all warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(handlers=[handler])
    logging.getLogger("signal_server").setLevel(level.upper())


def http_logger() -> logging.Logger:
    """Return a logger for aiohttp, which would log a traceback for each client that does not speak HTTP."""
    logger = logging.getLogger("signal_server.http")
    logger.addFilter(_is_ours)
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether to log what aiohttp reports. It then names no address."""
    if record.args:
        record.msg, record.args = record.msg.partition(" from ")[0], ()
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
