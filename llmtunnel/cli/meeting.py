"""A code or a secret that is typed, or piped in, rather than written on a command line."""

from __future__ import annotations

import getpass
import sys

from .. import descriptors
from ..errors import SettingError
from ..invite import LONGEST
from ..platforms import Platform, in_cell, platform


def read_line(what: str) -> str:
    """A line of standard input. A terminal is asked for it, and shows no secret that is typed."""
    if sys.stdin.isatty() and in_cell() and platform() is not Platform.COLAB:  # whose cells ask their user
        raise SettingError(
            f"- reads the {what} from standard input, but nobody can type into this cell.",
            hint="`%tunnel` asks for it; or put it into a file or the environment.",
        )
    try:
        if sys.stdin.isatty() and what == "secret":
            return getpass.getpass(f"{what}: ")
        if sys.stdin.isatty():
            descriptors.write(sys.stderr, f"{what}: ")
        line = sys.stdin.readline(LONGEST).strip()
    except (OSError, ValueError, EOFError) as exc:
        raise SettingError(f"The {what} cannot be read from standard input.", hint="Is it text in UTF-8?") from exc
    if not line:
        raise SettingError(f"There is no {what} on standard input.", hint=f"- reads the {what} from there.")
    return line
