"""The command line. Nothing heavy is loaded before it is known what is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..errors import SettingError
from .lines import complaint
from .options import ShowText, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. The entry point of ``llmtunnel`` and ``tunnel``."""
    try:
        command = parse(sys.argv[1:] if argv is None else argv)
    except SettingError as exc:
        sys.stderr.write(complaint(exc))
        return exc.exit_code
    except KeyboardInterrupt:  # instead of a code that was asked for
        return 130
    if isinstance(command, ShowText):
        return _show(command.text)
    try:
        from .commands import execute

        return execute(command)
    except KeyboardInterrupt:  # before the loop runs, or after
        return 130


def _show(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would fail again, with a traceback, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
