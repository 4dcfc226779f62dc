"""Where logs go, and how much of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_OURS = ("llmtunnel", "signal_server")
_CHATTY = "aioice"
"""What it logs is about packets; what matters of it reaches the user as our own errors."""


def configure(level: str) -> None:
    """Log to standard error. ``level`` is one of ``parsers.LEVELS``; ``trace`` lets aioice speak too."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    trace = level == "trace"
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if trace else level.upper())
    logging.getLogger(_CHATTY).setLevel(logging.DEBUG if trace else logging.CRITICAL)


@contextmanager
def to(stream: Any) -> Iterator[None]:
    """Inside, what would be logged to the terminal is written to the stream."""
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
