"""Where logs go, and how much of them."""

from __future__ import annotations

import logging
import sys

_OURS = ("llmtunnel", "signal_server")
_CHATTY = ("aiortc", "aioice")
"""What these two log is about packets; what matters of it reaches the user as our own errors."""


def configure(level: str) -> None:
    """Log to standard error. ``level`` is one of ``parsers.LEVELS``; ``trace`` lets the WebRTC libraries speak too."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    trace = level == "trace"
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if trace else level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if trace else logging.CRITICAL)
