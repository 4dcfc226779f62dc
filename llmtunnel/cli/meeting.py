"""Read a code or a secret from standard input, instead of the command line."""

from __future__ import annotations

import getpass
import sys

from .. import descriptors
from ..errors import SettingError
from ..invite import LONGEST, is_cut_off
from ..platforms import Platform, in_cell, platform


def read_line(what: str) -> str:
    """Return a line of standard input. On a terminal, prompt for it, and do not echo a secret.

    A code that was broken into several lines is joined again.
    """
    if sys.stdin.isatty() and in_cell() and platform() is not Platform.COLAB:  # Colab's cells can prompt their user
        raise SettingError(
            f"'-' reads the {what} from standard input, but standard input is not available in a notebook's cell.",
            hint="Use `%tunnel`, which asks for it, or put it into a file or the environment.",
        )
    try:
        if sys.stdin.isatty() and what == "secret":
            return getpass.getpass(f"{what}: ")
        if not sys.stdin.isatty():
            line = sys.stdin.readline(LONGEST).strip()
        else:
            line = _asked(f"{what}: ")
            while what == "code" and is_cut_off(line) and (more := _asked("it goes on: ")):
                line += more
    except (OSError, ValueError, EOFError) as exc:
        raise SettingError(f"Cannot read the {what} from standard input.", hint="Make sure it is UTF-8 text.") from exc
    if not line:
        raise SettingError(f"Standard input is empty, and '-' reads the {what} from it.", hint="Type or pipe it in.")
    return line


def _asked(prompt: str) -> str:
    descriptors.write(sys.stderr, prompt)
    return sys.stdin.readline(LONGEST).strip()
