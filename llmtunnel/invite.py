"""Invites: a room to meet in and a shared secret, as one code that a person can say or type.

    4821309-tulip-mango-onion-cedar-fruit                       at the default signal server
    4821309-tulip-mango-onion-cedar-fruit@signal.example        at wss://signal.example
    4821309-tulip-mango-onion-cedar-fruit@ws://10.0.0.2:8787    at any other address

The number names the room, so the signal server sees it. The words are the secret. There are 1295^5 of them, which is
51.7 bits: enough, since each guess costs a handshake.

`Invite.parse` accepts typing mistakes if the meaning is clear. Errors appear in logs and saved notebooks, so they never
repeat the code. If a single word is wrong, the error repeats that word, and the hint names the one or two nearest ones.
A reader of it still has to guess four words (41 bits), online. If more words are wrong, the error only says which.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Final, Self
from urllib.parse import urlsplit

from .errors import SettingError
from .words import WORDS

DEFAULT_SIGNAL: Final = "wss://signal-server.fly.dev"
"""The original's public signal server. A room holds two members."""
EXAMPLE: Final = "4821309-tulip-mango-onion-cedar-fruit"
DIGITS: Final = 7
ROOM: Final = "invite-"
"""Prefix of the name of an invite's room, before its number."""
COUNT: Final = 5
"""Words in a code."""
LONGEST: Final = 4096
"""Maximum length of a text that is read as a code, in characters: a pasted line, or a small file."""
LONGEST_WORD: Final = 16
"""Maximum length of a wrong word that an error repeats. No code word is longer, but a pasted password may be."""

MAYBE_CUT: Final = "If serve's code continues with @ and an address, the end of this one is missing."
"""For a code without an address whose serve is not found: nothing else shows that the code may be truncated."""
_LIKE: Final = f"A code looks like {EXAMPLE}."
_CUT_OFF: Final = "The code was cut off"
_WHOLE: Final = "Copy all of it: it may continue in the next line, and end with @ and an address."
_ROOM: Final = re.compile(rf"invite-([0-9]{{{DIGITS}}})")
_NUMBER: Final = re.compile(r"[0-9](?:[\s.,'’_-]?[0-9])*")
"""Digits, with the separators that people and locales put between them."""
_WORD: Final = re.compile(r"[^\W_]+")
_ADDRESS: Final = re.compile(
    r"(?:(wss?)://)?((?:[a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?)((?:/[a-z0-9._~%=&?+/-]{0,256})?)",
    re.IGNORECASE | re.ASCII,
)
"""Addresses of signal servers. They contain no user and password, since a code is passed on between people."""
_CUT_ADDRESS: Final = re.compile(
    r"wss?(?::/{0,2})?"
    r"|(?:wss?://)?(?:[a-z0-9._-]+:|\[[0-9a-f:.]*(?:\]:)?|(?:[0-9]{1,3}\.){0,2}[0-9]{1,3}\.?|(?:[0-9]{1,3}\.){3})?",
    re.IGNORECASE | re.ASCII,
)
"""The beginning of an address that cannot be a complete one."""
_AROUND: Final = " \t\r\n'\"`.,;)>/"
"""Characters that a sentence or a shell puts around an address."""
_BY_START: Final = {word[:3]: word for word in WORDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """The place where two sides meet, and their secret. Its repr does not show the secret; `code` does."""

    room: str
    """Name of the room: ``invite-`` and the number."""
    secret: str = field(repr=False)
    """The words, separated by hyphens."""
    signal: str = DEFAULT_SIGNAL
    """URL of the signal server."""

    def __post_init__(self) -> None:
        if not _ROOM.fullmatch(self.room):
            raise SettingError(
                f"An invite's room must be `invite-` and {DIGITS} digits.", hint="Use Invite.generate()."
            )
        words = self.secret.split("-")
        if len(words) != COUNT or not all(word in WORDS for word in words):
            raise SettingError(f"An invite's secret must be {COUNT} code words.", hint="Use Invite.generate().")
        object.__setattr__(self, "signal", signal_in_invite(self.signal))

    @property
    def code(self) -> str:
        """The code, which one side shows and the other side types. It is a secret."""
        at = "" if self.signal == DEFAULT_SIGNAL else f"@{self.signal.removeprefix('wss://')}"
        return f"{self.room.removeprefix('invite-')}-{self.secret}{at}"

    @classmethod
    def generate(cls, signal: str = DEFAULT_SIGNAL) -> Self:
        """Make a new invite. Raises `SettingError` if ``signal`` is not a signal server's address.

        Parameters:
            signal: URL of the signal server, ``wss://host`` or ``ws://host:port``.
        """
        number = 10 ** (DIGITS - 1) + secrets.randbelow(9 * 10 ** (DIGITS - 1))
        return cls(room=f"invite-{number}", secret=_new_secret(), signal=signal)

    def renewed(self) -> Self:
        """Return an invite for the same room with other words."""
        return replace(self, secret=_new_secret())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a code as a person types or pastes it. Raises `SettingError`.

        It accepts any case and any separators, even within the number. It accepts words without separators, and text
        before the number, such as ``llmtunnel proxy``. A word may have one letter extra, missing, wrong or swapped with
        the next, or be shortened to three letters or more, if only one code word matches. But a code that ends within a
        word counts as truncated.

        Parameters:
            text: The code, or a line that contains it.
        """
        if len(text) > LONGEST:
            raise SettingError("The text is too long for a code.", hint=_LIKE)
        number, rest = _split_number(unicodedata.normalize("NFKC", text))
        words, at, address = rest.partition("@")
        secret = "-".join(_read_words(words.casefold(), last=not at))
        if at and _CUT_ADDRESS.fullmatch(address.strip(_AROUND)):
            raise SettingError(f"{_CUT_OFF}: it ends within the signal server's address.", hint=_WHOLE)
        return cls(
            room=f"invite-{number}",
            secret=secret,
            signal=signal_in_invite(address, of_code=True) if at else DEFAULT_SIGNAL,
        )


def is_invites(room: str) -> bool:
    """Whether a room has the name of an invite's room. Its user knows that name as the code's number."""
    return bool(_ROOM.fullmatch(room))


def is_cut_off(text: str) -> bool:
    """Whether a text is a code whose end is missing for certain."""
    try:
        Invite.parse(text)
    except SettingError as exc:
        return exc.message.startswith(_CUT_OFF)
    return False


def _new_secret() -> str:
    return "-".join(secrets.choice(WORDS) for _ in range(COUNT))


def _split_number(text: str) -> tuple[str, str]:
    """Return the number and the rest. Of several runs of digits (``python3``), use the one of the right length."""
    found = [(re.sub(r"[^0-9]", "", match[0]), match.end()) for match in _NUMBER.finditer(text)]
    for digits, end in found:
        if len(digits) == DIGITS:
            return digits, text[end:]
    if len(found) == 1 and len(found[0][0]) < DIGITS and not text[found[0][1] :].strip():
        raise SettingError(f"{_CUT_OFF} in the middle of its number.", hint=_WHOLE)
    if not found:
        raise SettingError("The code of an invite begins with a number, and this has none.", hint=_LIKE)
    longest = max(len(digits) for digits, _ in found)
    raise SettingError(f"The number of a code has {DIGITS} digits, not {longest}.", hint=_LIKE)


def _read_words(text: str, *, last: bool) -> list[str]:
    """Return the words. ``last``: nothing follows them, so they may be truncated."""
    typed = _WORD.findall(text)
    exact, rest = _run_together("".join(typed))
    if len(exact) == COUNT and not rest:
        return exact
    if last and len(exact) < COUNT and any(word.startswith(rest) for word in WORDS):
        where = " in the middle of a word" if rest else f": it has {len(exact) or 'none'} of its {COUNT} words"
        raise SettingError(f"{_CUT_OFF}{where}.", hint=_WHOLE)
    if len(typed) != COUNT:
        raise SettingError(f"A code has {COUNT} words after its number, not {len(typed)}.", hint=_LIKE)
    meant = [_meant(word) for word in typed]
    if wrong := [place for place, words in enumerate(meant) if len(words) != 1]:
        raise _wrong_words(wrong, typed, meant)
    return [words[0] for words in meant]


def _run_together(letters: str) -> tuple[list[str], str]:
    """Return the words at the start of the letters, at most `COUNT`, and the remaining letters.

    No word is a prefix of another, so the result is unambiguous.
    """
    words: list[str] = []
    while letters and len(words) < COUNT:
        word = _BY_START.get(letters[:3], "")
        if not word or not letters.startswith(word):
            break
        words.append(word)
        letters = letters[len(word) :]
    return words, letters


def _meant(typed: str) -> list[str]:
    """Return the words that may be meant, each equally likely; exactly one if the meaning is clear."""
    if typed in WORDS:
        return [typed]
    started = _BY_START.get(typed[:3], "")
    return [word for word in WORDS if _is_near(typed, word) or (word == started and word.startswith(typed))]


def _is_near(typed: str, word: str) -> bool:
    """Whether the words differ by one letter (wrong, missing or extra) or by two swapped letters."""
    if abs(len(typed) - len(word)) > 1:
        return False
    at = next((i for i, (a, b) in enumerate(zip(typed, word, strict=False)) if a != b), min(len(typed), len(word)))
    rest, other = typed[at:], word[at:]
    swapped = rest[:2] == other[1::-1] and rest[2:] == other[2:]
    return swapped or rest[1:] == other[1:] or rest[1:] == other or rest == other[1:]


def _wrong_words(wrong: list[int], typed: list[str], meant: list[list[str]]) -> SettingError:
    """Say which words are wrong. For a single one, repeat it and suggest corrections (see the module's docstring)."""
    if len(wrong) > 1:
        places = f"{', '.join(str(place + 1) for place in wrong[:-1])} and {wrong[-1] + 1}"
        return SettingError(f"Words {places} of the code are not code words.", hint="Check them.")
    [place] = wrong
    near = meant[place][:2] or get_close_matches(typed[place][:16], WORDS, n=2)
    ask = f"Did you mean {' or '.join(near)}?" if near else "Check it."
    return SettingError(f"{typed[place][:LONGEST_WORD]!r} (word {place + 1}) is not a code word.", hint=ask)


def signal_in_invite(text: str, *, of_code: bool = False) -> str:
    """Return a signal server's address in the one form that invites use, so that two can be compared.

    ``of_code``: the address comes from a code, which errors do not repeat. Raises `SettingError`.
    """
    if "://" in text and not of_code:
        check_signal(text)
    match = _ADDRESS.fullmatch(unicodedata.normalize("NFKC", text).strip(_AROUND))
    try:
        if match:
            scheme, host, path = match.groups()
            address = f"{scheme or 'wss'}://{host}".lower() + path
            check_signal(address)
            return address
    except SettingError:  # an invalid port
        pass
    raise SettingError(
        "The signal server's address in the code is not valid."
        if of_code
        else f"--signal: not an address that a code can contain: {_without_user(text)!r}.",
        hint="Use ws://host:port or wss://host; @host in a code means wss://host."
        " For any other address, pass --room, --secret and --signal on both sides.",
    )


def check_signal(url: str) -> None:
    """Raise `SettingError` if this is not a signal server's address."""
    hint = "Use for example wss://signal.example, or ws://10.0.0.2:8787."
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port or IPv6 address
        good = False
    if not url.lower().startswith(("ws://", "wss://")):
        raise SettingError(f"--signal: must start with ws:// or wss://, got {_without_user(url)!r}.", hint=hint)
    if not good:
        raise SettingError(f"--signal: not a signal server's address: {_without_user(url)!r}.", hint=hint)


def _without_user(url: str) -> str:
    """Remove user and password from an address, since an error must not repeat them."""
    return re.sub(r"(?<=//)[^/?#]*@", "", url)
