"""Parse the address to listen on, and bind its sockets."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from .. import descriptors
from ..config import DEFAULT_PORT
from ..errors import AddressInUse, SettingError
from ..listener import LOOPBACK, LOOPBACK6, address_of, canonical_host, is_ipv6, is_loopback, netloc, split_netloc

_ANY: Final = "0.0.0.0"
_ANY6: Final = "::"
_NO_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, None)
"""getaddrinfo errors for ``::`` on a machine without IPv6; Python 3.12 and later raise them without a number."""
_BACKLOG: Final = 512
_TRIED_PORTS: Final = 100
"""Number of ports above a used one to check for a free port."""
_FREE_PAIRS: Final = 5
"""Number of attempts to find a port that is free at both 127.0.0.1 and ::1."""

ProtocolFactory = Callable[[], asyncio.Protocol]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """An address to listen on."""

    host: str = LOOPBACK
    port: int
    """Port number; 0 takes a free port."""

    @property
    def beside(self) -> str | None:
        """Second host to listen on, which clients treat as the same: ``localhost`` is ``::1`` for many.

        ``::`` includes IPv4, as with most servers.
        """
        return {LOOPBACK: LOOPBACK6, _ANY6: _ANY}.get(self.host)


def parse_listen(text: str, *, port: int = DEFAULT_PORT) -> Listen:
    """Parse ``8000``, ``:8000``, ``127.0.0.1:8000``, ``[::1]:8000``, ``localhost:0``, ``gpu.lan``, ``[::1]``, ``::1``.

    ``port`` applies if the address names none. Raises `SettingError`.
    """
    text = text.strip()
    if text.isascii() and text.isdecimal():
        text = f":{text}"
    elif _is_bare_ipv6(text):
        text = f"[{text}]"
    parts = split_netloc(text)
    if not parts or not text or text.endswith(":"):
        raise SettingError(
            f"{text!r} is not an address to listen on.", hint="Use --listen 127.0.0.1:8000, or [::1]:8000 for IPv6."
        )
    host, named = parts
    return Listen(host=_host(host or LOOPBACK), port=port if named is None else named)


def _is_bare_ipv6(text: str) -> bool:
    """Whether this is an IPv6 address without brackets and port. ``::1:8000`` is ambiguous, so it is not."""
    address, _, port = text.rpartition(":")
    return is_ipv6(text) and not (port.isdecimal() and len(port) > 1 and is_ipv6(address))


def _host(text: str) -> str:
    """Return the host to bind. An address gets the spelling that the guard and URLs use."""
    if is_loopback(canonical_host(text) or "") and address_of(text) is None:
        return LOOPBACK  # localhost, and the names below it
    return str(address_of(text) or text)


def url_of(listen: Listen, servers: list[asyncio.Server]) -> str:
    """Return the URL for clients on this machine, which cannot connect to "any": ``http://127.0.0.1:8000``."""
    host = listen.host
    if host in (_ANY, _ANY6):
        has_ipv4 = any(each.family == socket.AF_INET for server in servers for each in server.sockets)
        host = LOOPBACK if has_ipv4 else LOOPBACK6
    return f"http://{netloc(host, port_of(servers[0]))}"


def addresses_of(servers: list[asyncio.Server]) -> tuple[str, ...]:
    """Return every address where the servers listen."""
    return tuple(netloc(*each.getsockname()[:2]) for server in servers for each in server.sockets)


async def open_servers(listen: Listen, factory: ProtocolFactory, *, accepting: bool = True) -> list[asyncio.Server]:
    """Listen on the address and, if possible, on the second one (`Listen.beside`), at the same port.

    Without ``accepting``, the sockets are only bound: see `take_sockets`.
    Raises `AddressInUse`, or `SettingError` if the address cannot be used. If another program uses the port at ``::1``,
    only 127.0.0.1 is used. ``::`` is never used without IPv4.
    """
    for tries_left in reversed(range(_FREE_PAIRS)):
        try:
            server = await _server(listen.host, listen.port, factory, accepting)
        except (OSError, UnicodeError) as exc:
            if listen.host == _ANY6 and _has_no_family(exc):
                return await open_servers(Listen(host=_ANY, port=listen.port), factory, accepting=accepting)
            raise _unusable(listen, exc) from exc
        if listen.beside is None:
            return [server]
        try:
            return [server, await _server(listen.beside, port_of(server), factory, accepting)]
        except OSError as exc:
            is_taken = exc.errno in (errno.EADDRINUSE, errno.EACCES)  # see `_unusable`
            is_enough = listen.host == LOOPBACK and (listen.port or not tries_left)
            if is_enough or not is_taken:  # not taken: this machine lacks IPv6 or IPv4
                return [server]
            await _close(server)
            if listen.port or not tries_left:
                raise _unusable(listen, exc) from exc
    raise AssertionError("the last try returns or raises")


def take_sockets(servers: list[asyncio.Server]) -> list[socket.socket]:
    """Listen on the sockets of servers that do not accept, for a caller that accepts itself. Closes the servers.

    Raises `AddressInUse` if another process has bound the port as well, and was first to listen.
    """
    taken: list[socket.socket] = []
    try:
        for each in (each for server in servers for each in server.sockets):
            sock = socket.fromfd(each.fileno(), each.family, socket.SOCK_STREAM)
            taken.append(sock)
            descriptors.keep_from_children(sock)
            sock.setblocking(False)
            sock.listen(_BACKLOG)
    except OSError as exc:
        host, port = taken[-1].getsockname()[:2]
        for sock in taken:
            sock.close()
        raise _unusable(Listen(host=host, port=port), exc) from exc
    finally:
        for server in servers:
            server.close()
    return taken


def _has_no_family(exc: Exception) -> bool:
    return isinstance(exc, socket.gaierror) or (isinstance(exc, OSError) and exc.errno in _NO_FAMILY)


def port_of(server: asyncio.Server) -> int:
    """Return the port that a server listens on."""
    return int(server.sockets[0].getsockname()[1])


async def _server(host: str, port: int, factory: ProtocolFactory, accepting: bool) -> asyncio.Server:
    server = await asyncio.get_running_loop().create_server(
        factory, host, port, backlog=_BACKLOG, start_serving=accepting
    )
    if not server.sockets:  # asyncio skips an address family that the system lacks
        server.close()
        raise OSError(errno.EAFNOSUPPORT, f"no socket for {host}")
    descriptors.keep_from_children(server)
    return server


async def _close(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()


def _unusable(listen: Listen, exc: Exception) -> SettingError:
    address = netloc(listen.host, listen.port)
    code = exc.errno if isinstance(exc, OSError) else None
    if none_left := descriptors.shortage(None if code == errno.EAFNOSUPPORT else exc):
        return SettingError(f"Cannot listen on {address}: {none_left}.", hint=descriptors.RAISE_IT)
    # Windows reports EACCES for a port that another program uses exclusively.
    if code == errno.EADDRINUSE or (code == errno.EACCES and listen.port >= 1024):
        return AddressInUse(address, next_free=_next_free(listen))
    if code == errno.EACCES:
        return SettingError(f"This user may not listen on {address}.", hint="Use a port above 1023.")
    return SettingError(
        f"Cannot listen on {address}: this machine does not have that address.",
        hint="Use for example --listen 127.0.0.1:8000.",
    )


def _next_free(listen: Listen) -> int | None:
    ports = range(listen.port + 1, min(listen.port + 1 + _TRIED_PORTS, 65_536))
    hosts = (_ANY6, _ANY) if listen.host == _ANY6 else (listen.host,)
    return next((port for port in ports if all(_is_free(host, port) for host in hosts)), None)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
