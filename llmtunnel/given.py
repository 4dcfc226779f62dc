"""Combine parameters, flags, variables and files into options. Reads files and variables.

The command line, ``%tunnel``, `llmtunnel.serve` and `llmtunnel.aio` share one rule. The call (a parameter or a flag)
takes precedence over the environment (``TUNNEL_…``), which takes precedence over the default. A value of None counts
as not given.

The meeting point counts as one setting. With an invite in the call, ``TUNNEL_ROOM`` and ``TUNNEL_SECRET`` are ignored;
with a room in the call, ``TUNNEL_INVITE`` is ignored. One of room and secret may come from the call and the other from
the environment. A contradiction is an error. An invite names its signal server: ``signal`` in the call must agree with
it, and ``TUNNEL_SIGNAL`` applies only without an invite.

The variable ``TUNNEL_SIGNAL_TOKEN`` is for the signal server that ``TUNNEL_SIGNAL`` names. Without that, it is for any
but the default one, which is somebody else's. So an invite cannot send the token of one server to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any, Final, TypeVar

from .config import ReachOptions, ServeOptions, from_env
from .errors import SettingError
from .invite import DEFAULT_SIGNAL, LONGEST, signal_in_invite
from .option import Option, declared
from .platforms import stored_invite
from .upstream import Upstream

Options = TypeVar("Options", bound=ReachOptions)

CODE: Final = "code"
"""The command line's name for an invite given as an argument instead of a flag."""
STDIN: Final = "-"
"""On the command line, instead of a code or a secret: read it from standard input."""

_NAMES: Final = ("invite", "room", "secret")
_TOKEN: Final = "signal_token"
_READ_AS: Final = {"invite": "code"}
"""What the prompt asks for, if it differs from the option's name."""
_INVITE: Final = (CODE, "invite", "invite_file")
_ROOM: Final = ("room", "secret", "secret_file")
_EXCLUSIVE: Final = (*((one, other) for one in _INVITE for other in (*_INVITE, *_ROOM)), ("secret", "secret_file"))


def chosen(
    kind: type[Options],
    given: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    *,
    spelled: Callable[[str], str] = lambda name: name,
    read_line: Callable[[str], str] | None = None,
) -> Options:
    """Return the options of this class: from ``given``, else from the environment, else their defaults.

    ``given`` maps option names to values, and ``NAME_file`` to the path of a file with the value. ``spelled`` returns
    the user's spelling of such a name. ``read_line`` reads a code or a secret given as `STDIN`. Without ``environ``,
    the variables are those of this process. If nothing else says where to meet, serve uses the invite that the user
    stored on the platform.

    Raises `SettingError`.
    """
    variables = from_env(environ)
    if given.get("no_auth"):
        variables = {name: text for name, text in variables.items() if not name.startswith("api_key")}
    if isinstance(given.get("upstream"), Upstream):  # it has header fields of its own
        variables.pop("upstream_header", None)
    meeting = _meeting(given, variables, spelled, read_line)
    if issubclass(kind, ServeOptions) and not meeting and (stored := stored_invite(environ)):
        meeting = {"invite": stored}
    signal = given.get("signal")
    if signal is None and "invite" not in meeting:
        signal = variables.get("signal")
    found = {**dict.fromkeys(_NAMES), **meeting, "signal": signal}
    values: dict[str, Any] = {
        name: each.of_argument(found[name]) if name in found else _value(each, given, variables, spelled)
        for name, each in declared(kind).items()
    }
    unlimited = {name for name, each in declared(kind).items() if NoneType in each.takes and name in given}
    options = kind(**{name: value for name, value in values.items() if value is not None or name in unlimited})
    by_variable = given.get(_TOKEN) is None and given.get(f"{_TOKEN}_file") is None
    if by_variable and options.signal_token is not None and not _is_for(options, variables.get("signal")):
        return replace(options, signal_token=None)
    return options


def _is_for(options: ReachOptions, named: str | None) -> bool:
    """Whether the token in the environment is for the signal server that is used. ``named``: the environment's."""
    meeting = options.meeting()
    used = meeting.signal if meeting else options.signal or DEFAULT_SIGNAL
    return used != DEFAULT_SIGNAL if named is None else _normal(used) == _normal(named)


def _normal(signal: str) -> str:
    try:
        return signal_in_invite(signal)
    except SettingError:  # an address that no code can contain
        return signal


def _meeting(
    given: Mapping[str, Any],
    variables: Mapping[str, str],
    spelled: Callable[[str], str],
    read_line: Callable[[str], str] | None,
) -> dict[str, Any]:
    """Return the invite, or the room and the secret, as far as they are given."""
    ours: dict[str, Any] = {name: value for name in (*_INVITE, *_ROOM) if (value := given.get(name)) is not None}
    found: dict[str, Any] = {name: variables[name] for name in _beside(ours.keys()) if name in variables} | ours

    def label(name: str) -> str:
        return spelled(name) if name in ours else f"TUNNEL_{name.upper()}"

    for one, other in _EXCLUSIVE:
        if one != other and one in found and other in found:
            raise SettingError(f"{label(one)} and {label(other)} contradict each other.", hint="Leave one of them out.")
    for name in ("invite", "secret"):
        if (path := found.pop(f"{name}_file", None)) is not None:
            found[name] = read_file(path, label(f"{name}_file"))
    if CODE in found:
        found["invite"] = found.pop(CODE)
    if read_line is not None:
        found |= {name: read_line(_READ_AS.get(name, name)) for name, text in found.items() if text == STDIN}
    return found


def _beside(ours: Set[str]) -> tuple[str, ...]:
    """Return the names that the environment may add to these."""
    if ours & set(_INVITE):
        return ()
    if ours & {"secret", "secret_file"}:
        return ("room",)
    return _ROOM if ours else (*_INVITE, *_ROOM)


def _value(
    each: Option, given: Mapping[str, Any], variables: Mapping[str, str], spelled: Callable[[str], str]
) -> object:
    """Return the value of any other option, or None if it is not given."""
    value: object = given.get(each.name)
    if each.file:
        value = _text(each, given, variables, spelled)
    elif value is None and each.env and each.key in variables:
        value = each.of_variable(variables[each.key])
    value = each.of_argument(value)
    if each.lines and isinstance(value, tuple):
        return tuple(line for entry in value for line in _lines(entry, each.flag))
    return value


def _text(
    each: Option, given: Mapping[str, Any], variables: Mapping[str, str], spelled: Callable[[str], str]
) -> object:
    """Return the value, or the contents of the file that is named instead."""
    name, file = each.name, f"{each.name}_file"
    text, path = given.get(name), given.get(file)
    if text is not None and path is not None:
        labels = f"{spelled(name)} and {spelled(file)}"
        raise SettingError(f"{labels} contradict each other.", hint="Leave one of them out.")
    if text is None and path is None:
        text, path = variables.get(each.key), variables.get(f"{each.key}_file")
    return read_file(path, f"{each.flag}-file", what="key file") if text is None and path is not None else text


def _lines(entry: str, flag: str) -> list[str]:
    """Return a header line, or the lines of the file that ``@FILE`` names."""
    if not entry.startswith("@"):
        return [entry]
    lines = read_file(entry[1:], flag, what="header file", limit=None).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def read_file(path: str, flag: str, *, what: str = "file", limit: int | None = LONGEST + 1) -> str:
    """Return the text of a file that a flag or a variable names. Raises `SettingError`."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            return file.read(limit).strip()
    except UnicodeDecodeError as exc:
        raise SettingError(f"The {what} {path!r} is not text in UTF-8.", hint=f"Check {flag}.") from exc
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or str(exc)
        raise SettingError(f"The {what} {path!r} cannot be read: {why.lower()}.", hint=f"Check {flag}.") from exc
