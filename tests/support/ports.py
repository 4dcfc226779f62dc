"""Ports of this machine, and a client that blocks, for tests of processes and threads."""

from __future__ import annotations

import socket
import urllib.request
from random import SystemRandom
from typing import Final

PATIENCE = 60.0
"""Seconds that an answer may take where kernels and browsers share a busy machine."""

_PORTS: Final = range(12_000, 32_000)
"""Below those that systems give to outgoing connections: another test's connection would take it in between."""


def free_port() -> int:
    """A port of loopback on which nothing listens, for what does not say itself which one it took."""
    while not is_free(port := SystemRandom().choice(_PORTS)):
        pass
    return port


def is_free(port: int) -> bool:
    """Whether one may listen there."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def fetch(url: str) -> bytes:
    """The body of a GET, by a client that blocks and knows of no proxy. Raises where the status is an error."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=PATIENCE) as response:
        return bytes(response.read())
