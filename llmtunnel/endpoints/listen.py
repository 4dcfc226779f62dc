"""Where the gateway listens: the address as people write it, and the sockets' binding."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from ..errors import AddressInUse, SettingError

_ADDRESS: Final = re.compile(r"(?:(?:\[([^\[\]]+)\]|([^:\[\]]*)):)?(\d{1,5})")
_LOOPBACK: Final = "127.0.0.1"
_LOOPBACK6: Final = "::1"
_BACKLOG: Final = 512
_TRIED_PORTS: Final = 100
"""Ports above a taken one that are looked at for a free one."""
_FREE_PAIRS: Final = 5
"""How often a port that is free at 127.0.0.1 is sought that is free at ::1 too."""

ProtocolFactory = Callable[[], asyncio.Protocol]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """An address to listen on."""

    host: str = _LOOPBACK
    port: int
    """0 takes a free one."""

    @property
    def beside(self) -> str | None:
        """Another host that clients mean by the same address: ``localhost`` is ``::1`` for many."""
        return _LOOPBACK6 if self.host == _LOOPBACK else None


def parse_listen(text: str) -> Listen:
    """``8000``, ``:8000``, ``127.0.0.1:8000``, ``[::1]:8000``, ``localhost:0``. Raises `SettingError`."""
    match = _ADDRESS.fullmatch(text.strip())
    if not match or int(match[3]) > 65_535:
        raise SettingError(f"{text!r} is not an address to listen on.", hint="Write it as --listen 127.0.0.1:8000.")
    host = match[1] or match[2] or _LOOPBACK
    return Listen(host=_LOOPBACK if host.lower() == "localhost" else host, port=int(match[3]))


def shown(host: str, port: int) -> str:
    """``127.0.0.1:8000``, ``[::1]:8000``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str, port: int) -> str:
    """The address for a URL: a client on this machine does not connect to "any"."""
    return shown({"0.0.0.0": _LOOPBACK, "::": _LOOPBACK6}.get(host, host), port)


async def open_servers(listen: Listen, factory: ProtocolFactory) -> list[asyncio.Server]:
    """Listen on the address and, where that can be, on the one beside it, at one port.

    Raises `AddressInUse`, or `SettingError` where the address cannot be used.
    """
    for _ in range(_FREE_PAIRS):
        server = await _open(listen, factory)
        if listen.beside is None:
            return [server]
        port = port_of(server)
        try:
            return [server, await _server(listen.beside, port, factory)]
        except OSError as exc:
            if listen.port or exc.errno != errno.EADDRINUSE:  # the port is a given, or there is no IPv6 here
                return [server]
            await _close(server)
    return [await _open(listen, factory)]


def port_of(server: asyncio.Server) -> int:
    """The port that a server listens on."""
    return int(server.sockets[0].getsockname()[1])


async def _open(listen: Listen, factory: ProtocolFactory) -> asyncio.Server:
    try:
        return await _server(listen.host, listen.port, factory)
    except (OSError, UnicodeError) as exc:
        raise _unusable(listen, exc) from exc


async def _server(host: str, port: int, factory: ProtocolFactory) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(factory, host, port, backlog=_BACKLOG)


async def _close(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()


def _unusable(listen: Listen, exc: Exception) -> SettingError:
    address = shown(listen.host, listen.port)
    code = exc.errno if isinstance(exc, OSError) else None
    # Windows says EACCES of a port that another program holds for itself alone.
    if code == errno.EADDRINUSE or (code == errno.EACCES and listen.port >= 1024):
        return AddressInUse(address, next_free=_next_free(listen))
    if code == errno.EACCES:
        return SettingError(f"{address} may not be listened on by this user.", hint="Choose a port above 1023.")
    return SettingError(f"{address} is not an address of this machine.", hint="--listen 127.0.0.1:8000 always is.")


def _next_free(listen: Listen) -> int | None:
    ports = range(listen.port + 1, min(listen.port + 1 + _TRIED_PORTS, 65_536))
    return next((port for port in ports if _is_free(listen.host, port)), None)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
