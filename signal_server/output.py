"""Standard output, and the exit statuses of a process that cannot do its work."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Final

USAGE: Final = 2
"""Exit status if the arguments or the address are invalid."""
FAILED: Final = 1
"""Exit status if the requested help cannot be written."""


def say(text: str) -> str:
    """Write to standard output at once. Returns why that failed; empty if it succeeded, or the reader has gone away.

    The unwritten rest is dropped. Otherwise Python would write it again at exit, and end with a traceback.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as exc:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "" if isinstance(exc, BrokenPipeError) else exc.strerror or str(exc)
    return ""
