"""Standard output, and what a process ends with where it cannot do its work."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Final

USAGE: Final = 2
"""Exit status where the arguments, or the address, cannot be used."""
FAILED: Final = 1
"""Exit status where the help that was asked for cannot be written."""


def say(text: str) -> str:
    """Write to standard output at once; returns why that failed, or an empty text where it did not, or the reader left.

    The unwritten rest is dropped: Python would write it again at exit, and end with a traceback.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as exc:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "" if isinstance(exc, BrokenPipeError) else exc.strerror or str(exc)
    return ""
