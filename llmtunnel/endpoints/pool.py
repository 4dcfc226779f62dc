"""Open and keep connections to the upstream. No HTTP here.

As without a tunnel, a connection belongs to one client: it is kept for that client's next request, and closes when the
client disconnects. So no bytes and no identity tied to a connection reach another client.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from functools import partial
from typing import Final

from .. import descriptors
from ..config import Limits, Timeouts
from ..errors import SettingError, UpstreamUnreachable
from ..session.stream import Client
from ..transport.tasks import finish
from ..upstream import Upstream
from .upstream_connection import UpstreamConnection, connect

FAMILIAR: Final = 10.0
"""Seconds for which a name's loopback address is used without another lookup. Each POST has a new connection, and a
lookup costs as much as the connection itself. Other addresses may change, so they are always looked up."""


class UpstreamPool:
    """Opens connections to one upstream, and keeps at most one for each client without a running request."""

    def __init__(self, upstream: Upstream, *, timeouts: Timeouts, limits: Limits) -> None:
        """Raises `SettingError` if the upstream's CA file is invalid."""
        self._upstream = upstream
        self._timeouts = timeouts
        self._limits = limits
        self._tls = _tls_context(upstream) if upstream.scheme == "https" else None
        self._familiar: tuple[str, float] | None = None
        """A loopback address at which the upstream has answered, and until when it is used."""
        self._open: set[UpstreamConnection] = set()
        self._kept: dict[Client, tuple[UpstreamConnection, asyncio.TimerHandle]] = {}
        """Kept connections by client; the one kept longest comes first."""

    @property
    def idle(self) -> int:
        """Number of connections that wait for a request."""
        return len(self._kept)

    async def acquire(self, client: Client, *, fresh: bool = False) -> UpstreamConnection:
        """Return the connection kept for the client, or a new one. Raises `UpstreamUnreachable`.

        With ``fresh``, or if the kept one is unusable, the kept one closes first. So a client never has two, each of
        which may occupy a worker of the upstream.
        """
        if client in self._kept:
            connection = self._take(client)
            if connection.usable and connection.silent and not fresh:
                connection.reused = True
                return connection
            connection.abort()
            await connection.lost.wait()  # brief, since the event loop closes an aborted connection in its next turn
        return await self.connect()

    def release(self, connection: UpstreamConnection, client: Client) -> None:
        """Keep a connection after a complete exchange for this client's next request, if there can be one."""
        if client.left or client in self._kept or not connection.usable:
            connection.abort()
            return
        if len(self._kept) >= self._limits.idle_upstream:
            self._drop(next(iter(self._kept)))
        connection.idle = True
        timer = asyncio.get_running_loop().call_later(self._timeouts.idle_upstream, self._drop, client)
        self._kept[client] = connection, timer
        client.on_left = partial(self._drop, client)

    async def aclose(self) -> None:
        """Close every connection, including those in use, and wait until their sockets are closed."""
        connections = list(self._open)
        await finish(*(connection.abort for connection in connections))
        await finish(*(connection.lost.wait for connection in connections), together=True)

    def _take(self, client: Client) -> UpstreamConnection:
        """Remove and return the connection kept for a client."""
        connection, timer = self._kept.pop(client)
        timer.cancel()
        client.on_left = None
        connection.idle = False
        return connection

    def _drop(self, client: Client) -> None:
        self._take(client).abort()

    def _forget(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        if connection.idle:
            for client in [client for client, (kept, _) in self._kept.items() if kept is connection]:
                self._take(client)

    async def connect(self) -> UpstreamConnection:
        """Open a connection that only its user and the end of the pool close. Raises `UpstreamUnreachable`."""
        try:
            async with asyncio.timeout(self._timeouts.upstream_connect):
                connection = await self._open_familiar()
                if connection is None:
                    connection = await self._open_socket()
                    self._remember(connection)
        except OSError as exc:
            raise _unreachable(self._upstream, exc) from exc
        if not connection.lost.is_set():  # otherwise `_forget` was called already
            self._open.add(connection)
        return connection

    async def _open_familiar(self) -> UpstreamConnection | None:
        """Connect to the remembered loopback address of the name; None if there is none, or it does not answer."""
        loop = asyncio.get_running_loop()
        if self._familiar is None or self._familiar[1] < loop.time():
            return None
        try:
            _, connection = await loop.create_connection(
                lambda: UpstreamConnection(self._forget), self._familiar[0], self._upstream.port
            )
        except OSError:
            self._familiar = None
            return None
        return connection

    def _remember(self, connection: UpstreamConnection) -> None:
        address = connection.address
        if self._tls is None and address and ipaddress.ip_address(address).is_loopback:
            self._familiar = address, asyncio.get_running_loop().time() + FAMILIAR

    async def _open_socket(self) -> UpstreamConnection:
        upstream = self._upstream
        return await connect(upstream.host, upstream.port, tls=self._tls, on_lost=self._forget)


_NOT_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
"""OpenSSL's reasons for a first response that is not a TLS record."""


def _tls_context(upstream: Upstream) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=upstream.ca_file)
    except OSError as exc:
        raise SettingError(
            f"--upstream-ca: cannot read {upstream.ca_file!r}: {exc.strerror or exc}.",
            hint="Use --upstream-ca FILE, with certificates in PEM format.",
        ) from exc
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION  # a write would have to wait for a renegotiation
    if upstream.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _unreachable(upstream: Upstream, exc: OSError) -> UpstreamUnreachable:
    """Return the error for a connection that failed, with its cause and what to do."""
    where, address = upstream.origin, upstream.authority.decode()
    if none_left := descriptors.shortage(exc):
        message = f"Serve cannot connect to the model server at {where}: {none_left}."
        return UpstreamUnreachable(message, hint=descriptors.RAISE_IT, ours=none_left)
    match exc:
        case ssl.SSLCertVerificationError():
            message = f"The certificate of the model server at {where} is not trusted: {exc.verify_message}."
            hint = "Name its authority with --upstream-ca FILE, or trust any certificate with --upstream-insecure."
        case ssl.SSLError():
            if exc.reason not in _NOT_TLS:
                message = f"The TLS handshake with the server at {address} failed: {exc.reason or exc}."
                return UpstreamUnreachable(message, hint="Check which TLS versions it supports.")
            message, hint = f"The server at {address} does not speak TLS.", f"Try http://{address}."
        case socket.gaierror():
            message = f"Cannot look up {upstream.host}."
            hint = "Check the name in --upstream."
        case TimeoutError():
            message = f"The model server at {where} does not answer."
            hint = "Check the address in --upstream, and that no firewall blocks it."
        case ConnectionResetError() if upstream.scheme == "https":
            message = f"The server at {address} closed the connection during the TLS handshake."
            hint = f"If it does not speak TLS, try http://{address}."
        case _:
            message = f"The model server at {where} does not answer."
            return UpstreamUnreachable(message, hint="Start it, or check --upstream.", absent=True)
    return UpstreamUnreachable(message, hint=hint)
