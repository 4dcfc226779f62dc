"""Options: fields that are also a flag, a variable, a parameter of the Python functions, and their help. Pure.

`config` declares each option once, as a field of `ServeOptions` or `ProxyOptions`. The command line, the environment
and ``%tunnel`` read them through `declared`. `accepts` turns them into parameters.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import update_wrapper
from os import PathLike, fspath
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar, dataclass_transform

from .errors import SettingError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

PREFIX: Final = "TUNNEL_"
"""Prefix of the variables that options are read from."""

_WIDTH: Final = 88
"""Columns of the generated part of a docstring."""
_SWITCH: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE: Final = r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([KMGT]?)(i?)B?)"

_PATTERNS: Final = """\
A PATTERN is a path, optionally with a method: '/v1/*', 'GET /v1/models'.
* matches any characters (including /) or none. GET includes HEAD. --deny
wins over everything else. With --allow, openai or ollama, serve rejects
what none of them matches. With any of these, it also rejects paths that
programs may read in two ways (//, .., %2F outside a model's name, ...)."""


class Group(NamedTuple):
    """A section of ``--help``: its title, and the text below it."""

    title: str
    about: str | None = None


MEETING: Final = Group("where the two sides meet", "Use an invite, or a room with a secret of your own.")
OWN: Final = Group("")
"""The command's own options. This section has no title."""
EXPOSURE: Final = Group("what serve allows", _PATTERNS)
ACCESS: Final = Group("who may use the proxy, besides programs on this machine")
NETWORK: Final = Group("network")
CALL: Final = Group("how the call waits")
"""Options of the Python functions only."""
GROUPS: Final = (MEETING, OWN, EXPOSURE, ACCESS, NETWORK, CALL)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Option:
    """How a user gives one field, and how the help describes it. Only ``help`` is required."""

    help: str
    """Help text of the flag."""
    python: str = ""
    """Description of the Python parameter, if ``help`` does not fit."""
    group: Group = OWN
    metavar: str | None = None
    read: Callable[[str], object] | None = None
    """Converts the text to the value, or raises `ValueError`. None: the text is the value."""
    choices: tuple[str, ...] = ()
    """Every allowed value."""
    suggest: tuple[str, ...] = ()
    """Values that completion offers, if they differ from the choices."""
    env: bool = False
    """Whether a variable sets it too."""
    lines: bool = False
    """For a repeatable flag: ``@FILE`` stands for the lines of a file, and the variable holds one value per line."""
    file: str = ""
    """Help text of a second flag (and variable) that names a file with the value. Empty: no such flag."""
    empty: str = ""
    """For a repeatable flag: the word that means no values."""
    alone: str = ""
    """Value of the flag if no value follows it. Only a URL counts as one, since a word may be UPSTREAM. Empty: a value
    has to follow."""
    default_help: str = ""
    """Meaning of the default, if ``--help`` cannot show its value."""
    flag: str = ""
    """Spelling of the flag, if it differs from the field's name."""
    port: bool = False
    """Whether the Python parameter accepts a port number."""
    takes: tuple[type, ...] = ()
    """Additional types that the Python parameter accepts; such a value is not converted."""
    name: str = ""
    """Name of the field and of the Python parameter. `declared` sets this and the default."""
    default: Any = None

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.default is False

    @property
    def is_repeatable(self) -> bool:
        """Whether the flag may be repeated."""
        return isinstance(self.default, tuple)

    @property
    def key(self) -> str:
        """The name that `config.from_env` uses for its variable: ``api_key``."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """Name of its variable: ``TUNNEL_API_KEY``. Only read if `env` is true."""
        return PREFIX + self.key.upper()

    @property
    def flag_help(self) -> str:
        """Help text of its flag, with its variable and its default."""
        notes = [self.variable + (", separated by spaces" if self.is_repeatable and not self.lines else "")]
        default = self.default_help or _shown(() if self.choices else self.default)
        notes = [*(notes if self.env else ()), *([f"default: {default}"] if default else ())]
        return self.help + (f" ({'; '.join(notes)})" if notes else "")

    @property
    def parameter_help(self) -> str:
        """Description of the Python parameter, as a sentence."""
        return self.python or f"{self.help[:1].upper()}{self.help[1:].removesuffix('.')}."

    def of_variable(self, text: str) -> object:
        """Return the value of its variable: a list if the flag is repeatable. Raises `SettingError`."""
        read = switch if self.is_switch else self.read or str
        try:
            if self.is_repeatable:
                return [read(each) for each in (text.splitlines() if self.lines else text.split())]
            return read(text)
        except ValueError as exc:
            raise SettingError(f"{self.variable}: {exc}.", hint=f"{self.flag} takes the same values.") from exc

    def of_argument(self, value: object) -> object:
        """Return the value of a Python argument, or None if it was not given.

        A string is read as the flag reads it. A repeatable option also accepts a single string. Raises `SettingError`,
        whose text does not contain the value.
        """
        if value is None or isinstance(value, self.takes):
            return value
        if self.is_switch:
            if not isinstance(value, bool):
                raise self._wrong("True or False", value)
            return value
        if not self.is_repeatable:
            return self._read(value)
        several = value if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
        return tuple(self._read(each) for each in several)

    def _read(self, value: object) -> object:
        if self.port and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str | PathLike):
            try:
                return (self.read or str)(fspath(value))
            except ValueError as exc:
                raise SettingError(f"{self.name}: {exc}.", hint=self.parameter_help) from exc
        kinds, words = _NUMBERS.get(self.read, ((), "a string"))
        if isinstance(value, kinds) and not isinstance(value, bool):
            return self._read(str(value)) if self.read is seconds else value
        raise self._wrong(words, value)

    def _wrong(self, expected: str, value: object) -> SettingError:
        return SettingError(f"{self.name} must be {expected}, not {type(value).__name__}.", hint=self.parameter_help)


def option(help: str, *, default: T, kw_only: bool = True, **more: Any) -> T:
    """Declare a field that is an option. ``more`` holds further attributes of `Option`.

    A default of False makes its flag a switch, and a tuple makes it repeatable. ``kw_only`` is False for the first
    parameter of the Python function.
    """
    return field(default=default, kw_only=kw_only, metadata={Option: Option(help=help, **more)})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option,))
def options(kind: type[T]) -> type[T]:
    """Make a class of `option` fields a frozen dataclass. Its repr shows no values, since some are secret.

    It has no slots, so that a class can inherit from two of them. It has no comparison, which would slow the start.
    """
    return dataclass(frozen=True, kw_only=True, eq=False, repr=False)(kind)


def declared(kind: type) -> Mapping[str, Option]:
    """Return the options of such a class by name, ordered by group and then by field."""
    found = [
        replace(
            each.metadata[Option],
            name=each.name,
            default=each.default,
            flag=each.metadata[Option].flag or f"--{each.name.replace('_', '-')}",
        )
        for each in fields(kind)
    ]
    return {each.name: each for each in sorted(found, key=lambda each: GROUPS.index(each.group))}


def accepts(
    kind: Callable[P, T], made: Callable[[type[T], Mapping[str, Any]], T] | None = None
) -> Callable[[Callable[[T], R]], Callable[P, R]]:
    """Function decorator: the options of such a class become the function's parameters, with a description of each.

    ``made`` turns the arguments of a call (by name) into the options; without it, the arguments are used as given.
    Type checkers see the parameters through ``P``; IPython, Jedi and `help` see them through ``__signature__``.
    """
    assert isinstance(kind, type)
    fields_of = inspect.signature(kind).parameters
    every = declared(kind)
    parameters = sorted((fields_of[name] for name in every), key=lambda each: each.kind)

    def decorate(function: Callable[[T], R]) -> Callable[P, R]:
        signature = inspect.signature(function).replace(parameters=parameters)

        def call(*args: P.args, **given: P.kwargs) -> R:
            try:
                found = signature.bind(*args, **given)
            except TypeError as exc:
                raise TypeError(f"{function.__name__}() {exc}") from None
            return function(made(kind, found.arguments) if made else kind(*args, **given))

        update_wrapper(call, function)
        call.__doc__ = _documented(function, [every[each.name] for each in parameters])
        vars(call)["__signature__"] = signature
        return call

    return decorate


def _documented(function: Callable[..., object], parameters: Iterable[Option]) -> str:
    from textwrap import fill  # here, since the command line does not need it

    texts = [
        f"{each.name}: {each.parameter_help}{f' Variable: {each.variable}.' if each.env else ''}" for each in parameters
    ]
    lines = [fill(text, _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8) for text in texts]
    return "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Parameters:", *lines])


def _shown(default: object) -> str:
    """Return a default as ``--help`` shows it; empty if it shows nothing."""
    match default:
        case bool() | None:
            return ""
        case float():
            return f"{default:g}"
        case tuple():
            return " ".join(map(str, default))
    return str(default)


def switch(text: str) -> bool:
    """Read a switch: whether a variable turns it on. Raises `ValueError`."""
    value = _SWITCH.get(text.strip().lower())
    if value is None:
        raise ValueError(f"neither on nor off: {text!r}. Use 1 or 0")
    return value


def unless_empty(text: str) -> str | None:
    """Read a text. Like an empty variable, an empty text counts as not given."""
    return text or None


def seconds(text: str) -> float:
    """Read a number of seconds from 0. Raises `ValueError`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"not a number of seconds: {text!r}")
    return value


def duration(text: str) -> float:
    """Read a time with a unit (s, m, h, d), and return it in seconds. Raises `ValueError`."""
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", number) and float(number):
        return float(number) * _UNITS[unit]
    raise ValueError(f"not a duration: {text!r}. Use for example 30m or 8h")


def count(text: str) -> int:
    """Read a whole number above 0. Raises `ValueError`."""
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text):
        return int(text)
    raise ValueError(f"not a whole number above 0: {text!r}")


def size(text: str) -> int:
    """Read a number of bytes, optionally with a unit. Raises `ValueError`."""
    match = re.fullmatch(_SIZE, text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(f"not a size: {text!r}. Use for example 10MB")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


_NUMBERS: Final[Mapping[Callable[[str], object] | None, tuple[tuple[type, ...], str]]] = {
    seconds: ((int, float), "a number of seconds"),
    duration: ((int, float), "a number of seconds, or a string such as '8h'"),
    count: ((int,), "a whole number"),
    size: ((int,), "a whole number of bytes, or a string such as '10MB'"),
}
"""Options with numbers, by the function that reads their text: the types Python may pass, and their description."""
