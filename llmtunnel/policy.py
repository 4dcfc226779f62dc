"""Rules for what serve allows, by method and path. Pure.

A pattern is ``/path`` or ``METHOD /path``. ``*`` in the path stands for any characters, including none and ``/``. So
``/v1/*`` matches everything below ``/v1/``, but not ``/v1``. ``GET`` includes HEAD. The query is ignored.

- A request that matches a deny pattern is rejected, whatever else matches.
- With an allow pattern or a ready-made set, a request that matches none of them is rejected.

A program behind serve may treat two paths as the same that differ for us. So under a policy, each path must be in
normal form, which is unique. In doubt, the policy rejects: allow patterns match exactly, and deny patterns ignore case
and a trailing slash. Only a model's name (``/v1/models/org%2Fmodel``) has two spellings. Patterns see one text for
both, and every program sees both below the same path.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote_to_bytes

from .errors import SettingError

# fmt: off
_METHODS: Final = frozenset(
    (
        # RFC 9110 without CONNECT, which is never carried; RFC 5789; draft-ietf-httpbis-safe-method-w-body.
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "QUERY",
        # WebDAV and what extends it, as in IANA's registry of methods.
        "ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "LOCK", "MERGE",
        "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PROPFIND",
        "PROPPATCH", "REBIND", "REPORT", "SEARCH", "UNBIND", "UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE",
        "UPDATEREDIRECTREF", "VERSION-CONTROL",
    )
)
# fmt: on
_METHODS_SHOWN: Final = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, QUERY or one of WebDAV's"
_RAW: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,=:@/-]*")
"""Bytes that stand for themselves in a path: RFC 3986's pchar and ``/``, without ``;``."""
_ESCAPE: Final = re.compile(rb"%([0-9A-F]{2})")
_ESCAPED_ASCII: Final = frozenset(b' "<>[]^`{|}')
"""ASCII characters that may be escaped: they cannot occur in a path otherwise, and have no meaning to any program."""
_MODEL: Final = re.compile(rb"((?:/v1)?/models/)([^/]+)")
"""OpenAI's path of one model. Clients escape ``/``, ``:`` and ``@`` in the name, so that it stays one segment."""
_ESCAPED_IN_NAME: Final = re.compile(rb"%(2F|3A|40)")


class NotNormal(ValueError):
    """A path has another spelling that some programs treat as the same. The text says what is wrong with it."""


def normal(path: bytes) -> str:
    """Return a path in normal form, with its escapes decoded. Raises `NotNormal`.

    Two spellings never give the same text, except for the name of a model.
    """
    if not path.startswith(b"/"):
        raise NotNormal("it does not start with a slash")  # absolute-form, ``*``, ``@host``
    if model := _MODEL.fullmatch(path):  # the checks below look at the name as a program decodes it
        path = model[1] + _ESCAPED_IN_NAME.sub(lambda each: bytes.fromhex(each[1].decode()), model[2])
    rest = _ESCAPE.sub(_checked_escape, path)
    if not _RAW.fullmatch(rest):
        raise NotNormal(_foreign(rest))
    segments = path[1:].split(b"/")
    if b"." in segments or b".." in segments:
        raise NotNormal("it contains a dot segment (. or ..)")
    if b"" in segments[:-1]:
        raise NotNormal("it contains an empty segment (//)")
    return _decoded(path)


def _checked_escape(match: re.Match[bytes]) -> bytes:
    """Return nothing for an escape that is necessary. Raises `NotNormal` for any other escape."""
    byte = int(match[1], 16)
    if byte < 0x80 and byte not in _ESCAPED_ASCII:
        # Some programs decode %25 into another escape, and %2F, %3F and %3B into the end of a segment or of the path.
        raise NotNormal(f"it contains the escape {match[0].decode()}")
    return b""


def _foreign(rest: bytes) -> str:
    """Describe what is wrong with a path after its valid escapes were removed."""
    byte = _RAW.sub(b"", rest, count=1)[:1]
    if byte == b"%":
        return "it contains an escape that is not % and two upper-case hexadecimal digits"
    if byte == b";":
        return "it contains a path parameter (;)"  # servlet containers match `/pull;x` as `/pull`
    return f"it contains the byte {byte[0]:#04x}"


def _decoded(path: bytes) -> str:
    try:
        text = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise NotNormal("its escapes are not UTF-8") from exc
    # Programs that normalise turn ``／`` and ``．`` into a slash and a dot, and may drop invisible characters.
    if not text.isprintable() or not unicodedata.is_normalized("NFKC", text):
        raise NotNormal("it contains a character that is not in Unicode form NFKC")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One pattern."""

    method: str = ""
    """HTTP method in upper case; empty for every method."""
    path: str
    """Decoded path, which may contain ``*``."""

    def __post_init__(self) -> None:
        if self.method and self.method not in _METHODS:
            raise SettingError(
                f"{self.method!r} is not an HTTP method, so the pattern '{self}' never matches.",
                hint=f"Use {_METHODS_SHOWN}, or only the path for every method.",
            )

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read ``/path`` or ``METHOD /path``. Raises `SettingError`, also for a pattern that no path can match."""
        *method, path = text.split()[:3] or [""]
        if len(method) > 1:
            raise SettingError(f"Not a pattern: {text!r}.", hint="Use for example '/v1/*' or 'GET /v1/models'.")
        if "?" in path:
            raise SettingError(
                f"The pattern {text!r} contains a query, which is never compared.", hint="Remove the query."
            )
        try:
            decoded = normal(path.encode("utf-8", "surrogateescape"))
        except NotNormal as exc:
            raise SettingError(
                f"The pattern {text!r} never matches: {exc}.", hint="Use for example '/v1/*' or 'GET /v1/models'."
            ) from exc
        return cls(method=method[0].upper() if method else "", path=decoded)

    def allows(self, method: str, path: str) -> bool:
        """Whether the rule matches a path in normal form exactly."""
        return self._takes(method) and _matches(self.path, path)

    def denies(self, method: str, path: str) -> bool:
        """Whether the rule matches, ignoring the case of method and path and a slash at the path's end."""
        pattern, folded = self.path.casefold(), path.casefold()
        spellings = (folded, folded.rstrip("/"), folded.rstrip("/") + "/")
        return self._takes(method.upper()) and any(_matches(pattern, spelling) for spelling in spellings)

    def _takes(self, method: str) -> bool:
        return self.method in ("", method) or (self.method == "GET" and method == "HEAD")

    def __str__(self) -> str:
        return f"{self.method} {self.path}".lstrip()


def _matches(pattern: str, path: str) -> bool:
    """Match a glob with only ``*``, in one pass. A regular expression would backtrack, which costs much more."""
    first, *middle = pattern.split("*")
    if not middle:
        return path == first
    last = middle.pop()
    at, end = len(first), len(path) - len(last)
    if at > end or not path.startswith(first) or not path.endswith(last):
        return False
    for piece in middle:
        found = path.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _rules(*patterns: str) -> tuple[Rule, ...]:
    return tuple(map(Rule.parse, patterns))


_INFERENCE: Final = (
    "GET /models",
    "GET /models/*",  # names such as org/model contain slashes
    "POST /chat/completions",
    "POST /completions",
    "POST /embeddings",
    "POST /responses",
    "POST /rerank",
    "POST /score",
    "POST /tokenize",
    "POST /detokenize",
    "POST /audio/transcriptions",
    "POST /audio/translations",
    "POST /audio/speech",
)
_OPENAI: Final = _rules(*_INFERENCE, *(pattern.replace("/", "/v1/", 1) for pattern in _INFERENCE))
"""With and without ``/v1``: an upstream's base path or ``--advertise`` may contain it; llama.cpp and vLLM serve both.
This excludes data of other clients: stored responses, files, batches and fine-tuning."""

_OLLAMA: Final = _rules(
    "GET /",  # "Ollama is running": the first request of its own client
    "GET /api/version",
    "GET /api/tags",
    "GET /api/ps",
    "POST /api/show",
    "POST /api/chat",
    "POST /api/generate",
    "POST /api/embed",
    "POST /api/embeddings",
    "POST /v1/messages",
)

READY: Final[Mapping[str, tuple[Rule, ...]]] = MappingProxyType(
    {"all": (), "openai": _OPENAI, "ollama": _OLLAMA + _OPENAI}
)
"""The ready-made sets: inference, and listing the models. ``all`` has no rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Which requests are allowed; by default, all of them."""

    ready: str | None = None
    """A key of `READY`; None if the user chose none, which means the same as ``all``."""
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if self.ready is not None and self.ready not in READY:
            raise SettingError(f"--policy: unknown value {self.ready!r}.", hint=f"Use one of {', '.join(READY)}.")

    @classmethod
    def parse(cls, *, ready: str | None = None, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> Policy:
        """Make a policy from patterns as people write them. Raises `SettingError`."""
        return cls(ready=ready, allow=tuple(map(Rule.parse, allow)), deny=tuple(map(Rule.parse, deny)))

    @property
    def chosen(self) -> bool:
        """Whether the user has set any part of the policy."""
        return self != Policy()

    @property
    def restricts(self) -> bool:
        """Whether the policy has a rule. Without one, a path may have any spelling."""
        return bool(self._allowed or self.deny)

    @property
    def flags(self) -> str:
        """The flags that define the policy, for people: ``--policy ollama and --deny``."""
        return " and ".join((*self._allowing, *(("--deny",) if self.deny else ())))

    @property
    def _allowing(self) -> tuple[str, ...]:
        ready = (f"--policy {self.ready}",) if READY[self.ready or "all"] else ()
        return (*ready, "--allow") if self.allow else ready

    @property
    def _allowed(self) -> tuple[Rule, ...]:
        return READY[self.ready or "all"] + self.allow

    def refusal(self, method: str, path: bytes, *, preflight_for: str | None = None) -> str | None:
        """Return why a request is rejected, as the end of a sentence that names the flag; None if it is allowed.

        ``preflight_for``: the request is a CORS preflight for this method. The preflight of an allowed request is
        allowed too, since a page needs it. A rule that denies either of the two denies the preflight.
        """
        if not self.restricts:
            return None
        try:
            text = normal(path)
        except NotNormal as exc:
            return f"is not in normal form: {exc}. Serve rejects such paths because of {self.flags}"
        methods = (method,) if preflight_for is None else (method, preflight_for)
        for rule in self.deny:
            if any(rule.denies(each, text) for each in methods):
                return f"is rejected by serve's --deny '{rule}'"
        allowed = self._allowed
        if allowed and not any(rule.allows(each, text) for rule in allowed for each in methods):
            return f"is not allowed by serve's {' and '.join(self._allowing)}"
        return None
