"""The command line. Nothing heavy is loaded before it is known what is asked for."""

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
    """Run the command line; returns the exit status. The entry point of ``llmtunnel`` and ``tunnel``."""
    if argv is None:  # a process of ours
        descriptors.open_standard()
        descriptors.raise_limit()
        gc.set_threshold(GARBAGE)
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    finally:
        descriptors.write(sys.stderr, "")  # what could not be written there is no reason to fail


def _run(argv: Sequence[str]) -> int:
    try:
        command = parse(argv)
    except SettingError as exc:
        from .lines import complaint  # with all that views need: a fifth of the time to start

        descriptors.write(sys.stderr, complaint(exc))
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
    failed = descriptors.write(sys.stdout, text)
    if failed is None or isinstance(failed, BrokenPipeError):  # a reader that has seen enough
        return 0
    from .lines import unwritten

    descriptors.write(sys.stderr, unwritten(failed))
    return 1
