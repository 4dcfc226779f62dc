"""Where the two meet, by arguments and environment: an invite, or a room and a secret of one's own.

A flag wins over the environment, for all of this together: an invite that is a flag leaves ``TUNNEL_ROOM`` and
``TUNNEL_SECRET`` aside, and ``--room`` leaves ``TUNNEL_INVITE`` aside. A room and its secret may come one from a flag
and the other from the environment. What contradicts itself is an error.

An invite knows its signal server: ``--signal`` must agree with it, and ``TUNNEL_SIGNAL`` is for where there is none.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Final

from .. import descriptors
from ..errors import SettingError
from ..invite import LONGEST
from ..platforms import Platform, in_cell, platform

_INVITE: Final = ("code", "invite", "invite_file")
_CHOSEN: Final = ("room", "secret", "secret_file")
_EXCLUSIVE: Final = (*((one, other) for one in _INVITE for other in (*_INVITE, *_CHOSEN)), ("secret", "secret_file"))
STDIN: Final = "-"
"""In place of a code or a secret: read it from standard input."""


def read_meeting(given: argparse.Namespace, environ: Mapping[str, str]) -> dict[str, str | None]:
    """The options of where the two meet, by flags and environment (by flag name). Raises `SettingError`."""
    found = _found(given, environ)
    signal: str | None = given.signal
    if "room" in found and signal is None:
        signal = environ.get("signal")
    return {"invite": _invite(found), "room": found.get("room"), "secret": _secret(found), "signal": signal}


def _found(given: argparse.Namespace, environ: Mapping[str, str]) -> dict[str, str]:
    flags = {name: text for name in (*_INVITE, *_CHOSEN) if (text := getattr(given, name, None)) is not None}
    found = {name: environ[name] for name in _beside(flags.keys()) if name in environ} | flags
    for one, other in _EXCLUSIVE:
        if one != other and one in found and other in found:
            labels = " and ".join(_label(name, flag=name in flags) for name in (one, other))
            raise SettingError(f"{labels} contradict each other.", hint="Leave one of them out.")
    return found


def _beside(flags: Set[str]) -> tuple[str, ...]:
    """What the environment may add to these flags."""
    if flags & set(_INVITE):
        return ()
    if flags & {"secret", "secret_file"}:
        return ("room",)
    return _CHOSEN if flags else (*_INVITE, *_CHOSEN)


def _label(name: str, *, flag: bool) -> str:
    if name == "code":
        return "The code"
    return f"--{name.replace('_', '-')}" if flag else f"TUNNEL_{name.upper()}"


def _invite(found: Mapping[str, str]) -> str | None:
    if "invite_file" in found:
        return read_file(found["invite_file"], "--invite-file")
    text = found.get("code", found.get("invite"))
    return _read_line("code") if text == STDIN else text


def _secret(found: Mapping[str, str]) -> str | None:
    if "secret_file" in found:
        return read_file(found["secret_file"], "--secret-file")
    text = found.get("secret")
    return _read_line("secret") if text == STDIN else text


def read_file(path: str, flag: str, *, what: str = "file", limit: int | None = LONGEST + 1) -> str:
    """The text of a file that a flag names. Raises `SettingError`."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            return file.read(limit).strip()
    except (OSError, ValueError) as exc:
        raise SettingError(f"The {what} {path!r} cannot be read: {exc}.", hint=f"Check {flag}.") from exc


def _read_line(what: str) -> str:
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
