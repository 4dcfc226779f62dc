"""Configure where logs go, and how detailed they are."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_OURS = ("llmtunnel", "signal_server")
_CHATTY = ("aiortc", "aioice")
"""Libraries that log about packets. What matters of it reaches the user as our own errors."""


def configure(level: str) -> None:
    """Log to standard error. ``level`` is one of ``parsers.LEVELS``; ``trace`` includes these two."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    trace = level == "trace"
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if trace else level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if trace else logging.CRITICAL)


@contextmanager
def to(stream: Any) -> Iterator[None]:
    """Within the context, redirect logs from the terminal to the stream."""
    handlers = [
        each
        for each in logging.getLogger().handlers
        if isinstance(each, logging.StreamHandler) and each.stream is sys.stderr and sys.stderr.isatty()
    ]
    for handler in handlers:
        handler.setStream(stream)
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(sys.stderr)
