"""The command line. It loads nothing heavy before it knows which command to run."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Final

from .. import descriptors
from ..errors import SettingError
from .options import ShowText, parse

GARBAGE: Final = 10_000
"""New objects after which Python looks for garbage in cycles, instead of 700: a start makes 60,000 objects that all
stay, and looking through them time and again took a tenth of it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status. Entry point of ``llmtunnel`` and ``tunnel``."""
    if argv is None:  # this process is our own
        descriptors.open_standard()
        descriptors.raise_limit()
        gc.set_threshold(GARBAGE)
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    finally:
        descriptors.write(sys.stderr, "")  # a failed write to standard error is not a failure of the command


def _run(argv: Sequence[str]) -> int:
    try:
        command = parse(argv)
    except SettingError as exc:
        from .lines import complaint  # it loads everything that views need: a fifth of the start time

        descriptors.write(sys.stderr, complaint(exc))
        return exc.exit_code
    except KeyboardInterrupt:  # at the prompt for a code
        return 130
    if isinstance(command, ShowText):
        return _show(command.text)
    try:
        from .commands import execute

        return execute(command)
    except KeyboardInterrupt:  # before the loop runs, or after
        return 130


def _show(text: str) -> int:
    failed = descriptors.write(sys.stdout, text)
    if failed is None or isinstance(failed, BrokenPipeError):  # a reader that has seen enough
        return 0
    from .lines import unwritten

    descriptors.write(sys.stderr, unwritten(failed))
    return 1
