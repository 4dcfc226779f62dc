"""Who may use a private signal server: whoever has one of its access tokens. Only `TokenFile` reads a file.

A client sends its token with each `join`. The server keeps only keyed hashes of the tokens, and looks up the hash of
what a client sends. The time that this takes says nothing about a token, since nobody else knows the key.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .limits import ACCESS_TOKEN
from .messages import Code, Join, Refused
from .settings import SettingError

logger = logging.getLogger(__name__)

LEAST: Final = 8
"""Minimum length of a token, in characters: random ones of that length resist guesses at the rate of joins."""
LONGEST_FILE: Final = 1024 * 1024
"""Maximum size of a file of tokens, in characters."""
LOOK: Final = 1.0
"""Seconds between two looks at the file. A change is taken when a second look finds the same file."""

_State = tuple[int, int, int, int]


class Access:
    """The access tokens of a server. None: everybody may use it."""

    def __init__(self, tokens: Iterable[str] | None = None) -> None:
        self._key = secrets.token_bytes(32)
        self._hashes: frozenset[bytes] | None = None
        if tokens is not None:
            self.replace(tokens)

    @property
    def private(self) -> bool:
        """Whether a client needs a token."""
        return self._hashes is not None

    def replace(self, tokens: Iterable[str]) -> None:
        """Accept these tokens from now on, and no others. Members stay until they join again."""
        self._hashes = frozenset(self._hash(token) for token in tokens)

    def admits(self, request: Join) -> bool:
        """Whether the client may join a room."""
        return self._hashes is None or (request.access is not None and self._hash(request.access) in self._hashes)

    def check(self, request: Join) -> None:
        """Raise `Refused` unless the client may join a room. The text depends on nothing but the token."""
        if not self.admits(request):
            given = request.access is not None
            text = "this server does not accept your access token" if given else "this server requires an access token"
            raise Refused(Code.ACCESS_TOKEN, text)

    def _hash(self, token: str) -> bytes:
        return hashlib.blake2b(token.encode(), key=self._key).digest()


class TokenFile:
    """A file with one token a line. Empty lines, and comments from ``#`` to the end of a line, are ignored."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._taken: _State | None = None
        """The state of the file whose tokens are used."""

    def read(self) -> list[str]:
        """Return the tokens. Raises `SettingError`, whose text contains none."""
        try:
            state = self._state()
            with Path(self._path).open(encoding="utf-8") as file:
                text = file.read(LONGEST_FILE + 1)
        except UnicodeDecodeError:
            raise self._error("is not text in UTF-8") from None
        except (OSError, ValueError) as exc:
            why = getattr(exc, "strerror", None) or str(exc)
            raise self._error(f"cannot be read: {why.lower()}") from None
        if len(text) > LONGEST_FILE:
            raise self._error(f"is longer than {LONGEST_FILE} characters")
        tokens = [token for number, line in enumerate(text.splitlines(), 1) if (token := self._token(number, line))]
        if not tokens:
            raise self._error("contains no token: write one a line")
        self._taken = state
        return tokens

    async def watch(self, access: Access) -> None:
        """Use the file's tokens whenever it changes. If it cannot be used, log why, and keep the earlier ones."""
        before = self._taken
        while True:
            await asyncio.sleep(LOOK)
            now = self._look()
            changed, before = now == before and now != self._taken, now
            if changed:  # and no longer changes: nobody is in the middle of writing it
                self._taken = now
                self._reload(access)

    def _reload(self, access: Access) -> None:
        try:
            tokens = self.read()
        except SettingError as exc:
            logger.error("The earlier access tokens stay valid: %s", exc)
        else:
            access.replace(tokens)
            logger.info("Access tokens: %d are valid", len(tokens))

    def _state(self) -> _State:
        found = Path(self._path).stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _look(self) -> _State | None:
        try:
            return self._state()
        except (OSError, ValueError):
            return None

    def _token(self, number: int, line: str) -> str:
        token, *rest = line.split(maxsplit=1) or [""]
        if not token or token.startswith("#"):
            return ""
        if rest and not rest[0].startswith("#"):
            raise self._error(f"has more than a token in line {number}: write one a line, and a comment after #")
        try:
            return check_token(token)
        except ValueError as exc:
            raise self._error(f"has an invalid token in line {number}: it {exc}") from None

    def _error(self, what: str) -> SettingError:
        return SettingError(f"the file of access tokens {self._path!r} {what}")


def check_token(token: str) -> str:
    """Return the token. Raises `ValueError` with the end of a sentence, which does not contain it, if it is invalid."""
    if len(token) < LEAST:
        raise ValueError(f"must have {LEAST} characters or more: use `openssl rand -hex 16`")
    if len(token.encode(errors="surrogatepass")) > ACCESS_TOKEN:
        raise ValueError(f"must have {ACCESS_TOKEN} bytes or fewer")
    if not token.isprintable() or " " in token:
        raise ValueError("must not contain spaces or control characters")
    return token
