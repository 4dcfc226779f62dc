"""PATH: where serve listens for this peer on networks that both may be in (README.md section 12)."""

from __future__ import annotations

import json
from typing import Final

from ..errors import ProtocolError

MOST: Final = 8
"""Addresses that are read."""
_LONGEST: Final = 64
"""Characters of one: an IPv6 address with its port has 47."""


def encode_addresses(addresses: tuple[str, ...]) -> bytes:
    """The payload of PATH; each address is ``host:port``."""
    return json.dumps({"tcp": addresses[:MOST]}, separators=(",", ":")).encode()


def decode_addresses(payload: bytes) -> tuple[str, ...]:
    """The addresses in a PATH, whatever they may be. Raises `ProtocolError`."""
    try:
        addresses = json.loads(payload)["tcp"]
        if all(isinstance(each, str) and len(each) <= _LONGEST for each in addresses[:MOST]):
            return tuple(addresses[:MOST])
    except (ValueError, RecursionError, LookupError, TypeError):
        pass
    raise ProtocolError("A PATH does not say where.")
