"""PATH: where serve listens for this peer, on networks that both may be in (README.md section 12)."""

from __future__ import annotations

import json
from typing import Final

from ..errors import ProtocolError

MOST: Final = 8
"""Maximum number of addresses that are read."""
_LONGEST: Final = 64
"""Maximum length of an address in characters. An IPv6 address with a port has 47."""


def encode_addresses(addresses: tuple[str, ...]) -> bytes:
    """Return the payload of PATH. Each address is ``host:port``."""
    return json.dumps({"tcp": addresses[:MOST]}, separators=(",", ":")).encode()


def decode_addresses(payload: bytes) -> tuple[str, ...]:
    """Return the addresses in a PATH, which may be any text. Raises `ProtocolError`."""
    try:
        addresses = json.loads(payload)["tcp"]
        if all(isinstance(each, str) and len(each) <= _LONGEST for each in addresses[:MOST]):
            return tuple(addresses[:MOST])
    except (ValueError, RecursionError, LookupError, TypeError):
        pass
    raise ProtocolError("A PATH does not say where.")
