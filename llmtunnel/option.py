"""What an option is: a field that is also a flag, a variable, a parameter of Python's functions, and its help. Pure.

`config` declares each option once, as a field of `ServeOptions` or `ProxyOptions`. The command line, the environment
and ``%tunnel`` read them by `declared`. `accepts` makes parameters of them.
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
"""Of the variables that options are read from."""

_WIDTH: Final = 88
"""Columns of the generated part of a docstring."""
_SWITCH: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE: Final = r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([KMGT]?)(i?)B?)"

_PATTERNS: Final = """\
A PATTERN is a path, or a method and a path: '/v1/*', 'GET /v1/models'. A *
matches any characters, / too, or none; GET includes HEAD. Serve rejects what
--deny matches, whatever else matches. With --allow, openai or ollama, it
rejects what none of them matches. With any of these, it also rejects paths
that programs may read in two ways (//, .., %2F outside a model's name, ...)."""


class Group(NamedTuple):
    """Where an option stands in ``--help``: a title, and what is said below it."""

    title: str
    about: str | None = None


MEETING: Final = Group("where the two sides meet", "An invite, or a room and a secret of your own.")
OWN: Final = Group("")
"""The command's own options, which have no title."""
EXPOSURE: Final = Group("what serve allows", _PATTERNS)
ACCESS: Final = Group("who may use the proxy, besides programs on this machine")
NETWORK: Final = Group("network")
CALL: Final = Group("how the call waits")
"""Python's functions alone have these."""
GROUPS: Final = (MEETING, OWN, EXPOSURE, ACCESS, NETWORK, CALL)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Option:
    """How one field is given and described. All but ``help`` may be left out."""

    help: str
    """What ``--help`` says of the flag."""
    python: str = ""
    """What Python's documentation says of the parameter, where ``help`` does not fit."""
    group: Group = OWN
    metavar: str | None = None
    read: Callable[[str], object] | None = None
    """From a text to the value; raises `ValueError`. None: the text is the value."""
    choices: tuple[str, ...] = ()
    """All values that there are."""
    suggest: tuple[str, ...] = ()
    """Values that completion offers, where they are not the choices."""
    env: bool = False
    """Whether a variable gives it too."""
    lines: bool = False
    """Of a flag that may be repeated: ``@FILE`` stands for a file's lines, and its variable has one a line."""
    file: str = ""
    """The help of a further flag (and variable) that names a file with the value in it."""
    empty: str = ""
    """Of a flag that may be repeated: the word for none at all."""
    default_help: str = ""
    """What the default means, where ``--help`` cannot show it."""
    flag: str = ""
    """Its spelling, where that is not the field's name."""
    port: bool = False
    """Whether Python's parameter may be a port's number."""
    takes: tuple[type, ...] = ()
    """Further types of Python's parameter; such a value stays as it is."""
    name: str = ""
    """The field, and Python's parameter. `declared` sets this and the default."""
    default: Any = None

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.default is False

    @property
    def is_repeatable(self) -> bool:
        """Whether the flag may be given several times."""
        return isinstance(self.default, tuple)

    @property
    def key(self) -> str:
        """The name under which `config.from_env` gives its variable: ``api_key``."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """``TUNNEL_API_KEY``, whether or not it is read: see `env`."""
        return PREFIX + self.key.upper()

    @property
    def flag_help(self) -> str:
        """The help of its flag, with its variable and its default."""
        notes = [self.variable + (", spaces between" if self.is_repeatable and not self.lines else "")]
        default = self.default_help or _shown(() if self.choices else self.default)
        notes = [*(notes if self.env else ()), *([f"default: {default}"] if default else ())]
        return self.help + (f" ({'; '.join(notes)})" if notes else "")

    @property
    def parameter_help(self) -> str:
        """A sentence on Python's parameter."""
        return self.python or f"{self.help[:1].upper()}{self.help[1:].removesuffix('.')}."

    def of_variable(self, text: str) -> object:
        """What the text of its variable says: a list where the flag may be repeated. Raises `SettingError`."""
        read = switch if self.is_switch else self.read or str
        try:
            if self.is_repeatable:
                return [read(each) for each in (text.splitlines() if self.lines else text.split())]
            return read(text)
        except ValueError as exc:
            raise SettingError(f"{self.variable}: {exc}.", hint=f"{self.flag} takes the same values.") from exc

    def of_argument(self, value: object) -> object:
        """What Python's argument says; None where that is nothing. Raises `SettingError`, which does not show it.

        A string is read as the flag reads it. One string does where several may be given.
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
    """Declare a field that is an option; ``more`` is as in `Option`.

    A default of False makes a switch of its flag, and a tuple one that may be repeated. ``kw_only``: False for the
    first parameter of Python's function.
    """
    return field(default=default, kw_only=kw_only, metadata={Option: Option(help=help, **more)})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option,))
def options(kind: type[T]) -> type[T]:
    """Make a class of `option` fields a frozen dataclass. Its repr has no values, as some are secret.

    It has no slots, so that one class may inherit two of them, and no comparison, which costs time at the start.
    """
    return dataclass(frozen=True, kw_only=True, eq=False, repr=False)(kind)


def declared(kind: type) -> Mapping[str, Option]:
    """The options of such a class, by name: in the order of the groups, and there in the order of the fields."""
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
    """Function decorator: the options of such a class are the function's parameters, documented one by one.

    ``made`` makes the options of the arguments that a call gives, by name; without it they are the arguments as given.
    Type checkers see the parameters by ``P``; IPython, Jedi and `help` see them by ``__signature__``.
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
    from textwrap import fill  # not loaded for the command line

    texts = [
        f"{each.name}: {each.parameter_help}{f' Variable: {each.variable}.' if each.env else ''}" for each in parameters
    ]
    lines = [fill(text, _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8) for text in texts]
    return "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Parameters:", *lines])


def _shown(default: object) -> str:
    """A default as ``--help`` says it; empty where there is nothing to say."""
    match default:
        case bool() | None:
            return ""
        case float():
            return f"{default:g}"
        case tuple():
            return " ".join(map(str, default))
    return str(default)


def switch(text: str) -> bool:
    """Read whether a variable turns a switch on. Raises `ValueError`."""
    value = _SWITCH.get(text.strip().lower())
    if value is None:
        raise ValueError(f"neither on nor off: {text!r}. Use 1 or 0")
    return value


def unless_empty(text: str) -> str | None:
    """Read a text; an empty one counts as not given, as an empty variable does."""
    return text or None


def seconds(text: str) -> float:
    """Read a number of seconds. Raises `ValueError`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"not a number of seconds: {text!r}")
    return value


def duration(text: str) -> float:
    """Read a time with its unit, as seconds. Raises `ValueError`."""
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", number) and float(number):
        return float(number) * _UNITS[unit]
    raise ValueError(f"not a duration: {text!r}. Use for example 30m or 8h")


def count(text: str) -> int:
    """Read a number from 1 on. Raises `ValueError`."""
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text):
        return int(text)
    raise ValueError(f"not a whole number above 0: {text!r}")


def size(text: str) -> int:
    """Read a number of bytes, which may have a unit. Raises `ValueError`."""
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
"""Options whose values are numbers, by how their text is read: the types that Python may give, and their words."""
