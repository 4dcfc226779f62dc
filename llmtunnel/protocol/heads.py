"""A request's and a response's head as they stand between HTTP and the wire: raw bytes, order and case kept."""

from __future__ import annotations

from dataclasses import dataclass

Fields = tuple[tuple[bytes, bytes], ...]
"""Header fields in order: name in the sender's case, value as raw bytes without surrounding white space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """An HTTP request without its body."""

    method: bytes
    target: bytes
    """The request target byte for byte: ``/path?query`` or ``*``."""
    fields: Fields = ()

    @property
    def path(self) -> str:
        """The target without its query, for people to read: a query may hold a key."""
        return self.target.partition(b"?")[0].decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """An HTTP response without its body. A status under 200 is an interim one: another follows (101 aside)."""

    status: int
    reason: bytes = b""
    fields: Fields = ()

    @property
    def interim(self) -> bool:
        """Whether another head follows on the same stream."""
        return self.status < 200 and self.status != 101


def get_all(fields: Fields, name: bytes) -> list[bytes]:
    """The values of every field of that name (given in lower case), in order."""
    return [value for key, value in fields if key.lower() == name]


def tokens(fields: Fields, name: bytes) -> list[bytes]:
    """The comma-separated members of a list field, in lower case (RFC 9110 section 5.6.1)."""
    return [member.strip().lower() for value in get_all(fields, name) for member in value.split(b",") if member.strip()]


def is_upgrade(fields: Fields) -> bool:
    """Whether a head asks for, or grants, another protocol (RFC 9110 section 7.8)."""
    return b"upgrade" in tokens(fields, b"connection") and bool(get_all(fields, b"upgrade"))
