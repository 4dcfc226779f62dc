"""Settings by flag, variable and file, all derived from the parser of the flags. Reads files.

A flag ``--relay-rate`` is also the variable ``TUNNEL_SIGNAL_RELAY_RATE``, and the key ``relay-rate`` of the TOML file
that `CONFIG` names. A flag takes precedence over a variable, which takes precedence over the file, and the file over
the default. Flags that exclude each other count as one setting.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

PREFIX: Final = "TUNNEL_SIGNAL_"
"""Prefix of the variables. `llmtunnel` itself, the client, reads ``TUNNEL_SIGNAL`` and `CLIENTS`."""
CLIENTS: Final = ("TUNNEL_SIGNAL_TOKEN", "TUNNEL_SIGNAL_TOKEN_FILE")
"""Variables of clients that begin with the same prefix."""
CONFIG: Final = "--config"

_SWITCH: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
_KINDS: Final = {str: "a string", bool: "true or false", int: "a number", float: "a number", list: "a list"}
_LONGEST_SECRET: Final = 4096
"""Maximum length of a secret's file, in characters."""


class SettingError(Exception):
    """A setting that cannot be used. The text names its variable, or its file and key, and says what to do."""


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names the file."""
    parser.add_argument(
        CONFIG,
        metavar="FILE",
        help=f"TOML file with settings: a key for each flag, without the hyphens in front ({PREFIX}CONFIG)",
    )


def add_secret(
    group: _Container,
    flag: str,
    *,
    help: str,
    metavar: str = "TEXT",
    file_help: str = "",
    load: bool = True,
    read: Callable[[str], str] | None = None,
) -> None:
    """Add two flags for a secret: ``--turn-secret TEXT`` and ``--turn-secret-file FILE``.

    The secret is then ``turn_secret``, wherever it comes from. Without ``load``, the caller reads the file that
    ``turn_secret_file`` names. ``read`` checks the secret. It raises `argparse.ArgumentTypeError` with a text that
    does not contain it.
    """
    name = flag.removeprefix("--")
    pair = group.add_mutually_exclusive_group()
    variable = f"{PREFIX}{_constant(name)}"
    value = pair.add_argument(
        flag,
        metavar=metavar,
        type=read or _secret,
        help=f"{help}; others on this machine can read command lines, so use {variable} or {flag}-file instead",
    )
    vars(value)[_IS_SECRET] = True
    file = pair.add_argument(
        f"{flag}-file", metavar="FILE", help=file_help or f"file that contains it ({variable}_FILE)"
    )
    if load:
        vars(file)[_LOADS] = value


_IS_SECRET: Final = "is_secret"
"""Attribute of the action of a secret's value."""
_LOADS: Final = "loads"
"""Attribute of the action of a secret's file: the action of the value, which is in the file."""


class _Container(Protocol):
    """A parser, or one of its groups."""

    def add_mutually_exclusive_group(self, *, required: bool = False) -> argparse._MutuallyExclusiveGroup: ...


def read(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    environ: Mapping[str, str],
    *,
    warn: Callable[[str], None] = lambda text: None,
) -> argparse.Namespace:
    """Return all settings. Raises `SettingError`; for a flag that cannot be used, the parser ends the process.

    ``warn`` is called with a text about variables that look like settings, and are none.
    """
    flags = _Flags(parser, argv)
    variables = _Variables(environ)
    sources: list[_Source] = [flags, variables]
    if path := flags.given.get("config") or environ.get(f"{PREFIX}CONFIG"):
        sources.append(_File(path, list(settings(parser))))
    found = {action.dest: _default(action) for action in parser._actions if action.default is not argparse.SUPPRESS}
    for members in _exclusive(parser):
        for source in sources:
            given = [action for action in members if source.has(action)]
            if len(given) > 1:
                labels = " and ".join(map(source.label, given))
                raise SettingError(f"{labels} contradict each other: leave one of them out")
            if given:
                found[given[0].dest] = source.value(given[0])
                if secret := getattr(given[0], _LOADS, None):
                    label = source.label(given[0])
                    found[secret.dest] = _read(secret, _load(label, str(found[given[0].dest])), label)
                break
    if unknown := variables.unknown(settings(parser)):
        warn(f"not settings of the signal server, and ignored: {', '.join(unknown)}")
    return argparse.Namespace(**found)


def settings(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield what has a flag, a variable and a key."""
    for action in parser._actions:
        if action.dest != "help" and action.option_strings and CONFIG not in action.option_strings:
            yield action


def key_of(action: argparse.Action) -> str:
    """Return the key in the file: ``relay-rate``."""
    return next(each for each in action.option_strings if each.startswith("--")).removeprefix("--")


def variable_of(action: argparse.Action) -> str:
    """Return the variable: ``TUNNEL_SIGNAL_RELAY_RATE``."""
    return f"{PREFIX}{_constant(key_of(action))}"


def is_switch(action: argparse.Action) -> bool:
    """Whether the flag takes no value."""
    return action.nargs == 0


def is_repeatable(action: argparse.Action) -> bool:
    """Whether the flag can be given several times, or takes several values."""
    return isinstance(action, argparse._AppendAction) or action.nargs in ("+", "*")


def _exclusive(parser: argparse.ArgumentParser) -> Iterator[list[argparse.Action]]:
    """Yield the settings, those together that exclude each other."""
    groups = [group._group_actions for group in parser._mutually_exclusive_groups]
    yield from groups
    yield from ([action] for action in settings(parser) if not any(action in group for group in groups))


class _Source(Protocol):
    """Where settings come from."""

    def has(self, action: argparse.Action) -> bool:
        """Whether it contains the setting."""

    def label(self, action: argparse.Action) -> str:
        """Return how its user spells the setting."""

    def value(self, action: argparse.Action) -> object:
        """Return the setting's value. Raises `SettingError`."""


class _Flags:
    """The flags of a command line."""

    def __init__(self, parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> None:
        with _without_defaults(parser):
            self.given: dict[str, Any] = vars(parser.parse_args(argv))

    def has(self, action: argparse.Action) -> bool:
        return action.dest in self.given

    def label(self, action: argparse.Action) -> str:
        return action.option_strings[-1]

    def value(self, action: argparse.Action) -> object:
        return self.given[action.dest]


class _Variables:
    """The variables of a process. An empty one counts as not given."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._given = {name: text for name, text in environ.items() if name.startswith(PREFIX) and text.strip()}

    def has(self, action: argparse.Action) -> bool:
        return variable_of(action) in self._given

    def label(self, action: argparse.Action) -> str:
        return variable_of(action)

    def value(self, action: argparse.Action) -> object:
        text = self._given[variable_of(action)]
        if is_switch(action):
            on = _SWITCH.get(text.strip().lower())
            if on is None:
                raise SettingError(f"{self.label(action)}: {text!r} is neither on nor off: use 1 or 0")
            return _switched(action, on)
        if is_repeatable(action):
            return [_read(action, each, self.label(action)) for each in text.split()]
        return _read(action, text, self.label(action))

    def unknown(self, known: Iterator[argparse.Action]) -> list[str]:
        """Return the variables with our prefix that are nobody's."""
        return sorted(self._given.keys() - set(map(variable_of, known)) - {*CLIENTS, f"{PREFIX}CONFIG"})


class _File:
    """A TOML file. Raises `SettingError` unless it has only keys that are settings."""

    def __init__(self, path: str, known: Sequence[argparse.Action]) -> None:
        import tomllib  # here, since few have a file

        self._path = path
        try:
            self._given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise SettingError(f"{path}: not text in UTF-8: save it as UTF-8") from None
        except tomllib.TOMLDecodeError as exc:
            raise SettingError(f"{path}: not valid TOML: {exc}") from None
        except (OSError, ValueError) as exc:
            raise SettingError(f"{path}: cannot be read: {_why(exc)}; check {CONFIG} or {PREFIX}CONFIG") from None
        keys = [key_of(action) for action in known]
        for key in self._given:
            if key not in keys:
                raise SettingError(f"{path}: unknown key {key!r}. {_meant(key, keys)}")

    def has(self, action: argparse.Action) -> bool:
        return key_of(action) in self._given

    def label(self, action: argparse.Action) -> str:
        return f"{self._path}: {key_of(action)}"

    def value(self, action: argparse.Action) -> object:
        value = self._given[key_of(action)]
        if is_switch(action):
            return _switched(action, self._checked(action, value, bool))
        if is_repeatable(action):
            return [self._one(action, each) for each in self._checked(action, value, list)]
        return self._one(action, value)

    def _one(self, action: argparse.Action, value: object) -> object:
        kinds = (str, int, float) if action.type not in (None, str) and not hasattr(action, _IS_SECRET) else (str,)
        return _read(action, str(self._checked(action, value, *kinds)), self.label(action))

    def _checked(self, action: argparse.Action, value: Any, *kinds: type) -> Any:
        if type(value) in kinds:
            return value
        expected = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
        given = _KINDS.get(type(value), "a table" if isinstance(value, dict) else "a date or a time")
        raise SettingError(f"{self.label(action)}: expected {expected}, not {given}; write {self._example(action)}")

    def _example(self, action: argparse.Action) -> str:
        """Return a line with the right type."""
        key, choices = key_of(action), list(action.choices or ())
        text = f'"{choices[0] if choices else action.metavar or action.dest.upper()}"'
        if is_switch(action):
            return f"{key} = true"
        return f"{key} = [{text}, {text}]" if is_repeatable(action) else f"{key} = {text}"


@contextmanager
def _without_defaults(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Parse meanwhile without defaults, so that only flags that were given have a value."""
    defaults = [(action, action.default) for action in parser._actions]
    for action, _ in defaults:
        action.default = argparse.SUPPRESS
    try:
        yield
    finally:
        for action, default in defaults:
            action.default = default


def _default(action: argparse.Action) -> object:
    """Return the default as argparse does: a text is read like the flag's."""
    default: object = action.default
    return action.type(default) if isinstance(default, str) and callable(action.type) else default


def _read(action: argparse.Action, text: str, label: str) -> object:
    """Return the value of a text, as the flag would read it."""
    try:
        value = action.type(text) if callable(action.type) else text
    except argparse.ArgumentTypeError as exc:
        raise SettingError(f"{label}: {exc}") from None
    if action.choices is not None and value not in action.choices:
        raise SettingError(f"{label}: unknown value {text!r}: use {', '.join(map(str, action.choices))}")
    return value


def _switched(action: argparse.Action, on: bool) -> object:
    return on if action.const is None else action.const if on else action.default


def _secret(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the secret is empty")
    return text


def _load(label: str, path: str) -> str:
    """Return the secret in a file. No error contains it."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(_LONGEST_SECRET + 1).strip()
    except UnicodeDecodeError:
        raise SettingError(f"{label}: {path!r} is not text in UTF-8") from None
    except (OSError, ValueError) as exc:
        raise SettingError(f"{label}: {path!r} cannot be read: {_why(exc)}") from None
    if not text or len(text) > _LONGEST_SECRET:
        raise SettingError(f"{label}: {path!r} is {'too long' if text else 'empty'}: it must contain the secret alone")
    return text


def _meant(key: str, keys: Sequence[str]) -> str:
    close = difflib.get_close_matches(key.replace("_", "-"), keys, n=1)
    return f"Did you mean {close[0]!r}?" if close else "A key is a flag without the hyphens in front: see --help"


def _constant(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()


def _why(exc: Exception) -> str:
    return (getattr(exc, "strerror", None) or str(exc)).lower()
