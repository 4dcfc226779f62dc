"""Connections to the upstream: opening and keeping them. No HTTP here.

A connection belongs to one client, as it does without a tunnel: it is kept for that client's next request, and closed
when the client leaves. So neither bytes nor an identity that stick to a connection reach another client.
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
"""Seconds for which a name's loopback address is dialled without looking the name up again: each POST has a new
connection, and a lookup costs as much as the connection itself. Elsewhere names may move, so they are looked up."""


class UpstreamPool:
    """Opens connections to one upstream, and keeps at most one for each client that has no request under way."""

    def __init__(self, upstream: Upstream, *, timeouts: Timeouts, limits: Limits) -> None:
        """Raises `SettingError` where the upstream's CA file cannot be used."""
        self._upstream = upstream
        self._timeouts = timeouts
        self._limits = limits
        self._tls = _tls_context(upstream) if upstream.scheme == "https" else None
        self._familiar: tuple[str, float] | None = None
        """A loopback address at which the upstream has answered, and until when that is used."""
        self._open: set[UpstreamConnection] = set()
        self._kept: dict[Client, tuple[UpstreamConnection, asyncio.TimerHandle]] = {}
        """The one kept longest first."""

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return len(self._kept)

    async def acquire(self, client: Client, *, fresh: bool = False) -> UpstreamConnection:
        """The connection that is kept for the client, or a new one. Raises `UpstreamUnreachable`.

        Where it must be ``fresh``, or the kept one is of no more use, that one closes first: a client never has two,
        since each may hold a worker of the upstream.
        """
        if client in self._kept:
            connection = self._take(client)
            if connection.usable and connection.silent and not fresh:
                connection.reused = True
                return connection
            connection.abort()
            await connection.lost.wait()  # not for long: the event loop closes what was aborted in its next turn
        return await self.connect()

    def release(self, connection: UpstreamConnection, client: Client) -> None:
        """Keep a connection whose exchange ended in order, for this client's next request, if there may be one."""
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
        """Close every connection, those in use too, and wait until their sockets are gone."""
        connections = list(self._open)
        await finish(*(connection.abort for connection in connections))
        await finish(*(connection.lost.wait for connection in connections), together=True)

    def _take(self, client: Client) -> UpstreamConnection:
        """The connection that is kept for a client, which the pool keeps no longer."""
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
        """A new connection, which the pool closes only with itself. Raises `UpstreamUnreachable`."""
        try:
            async with asyncio.timeout(self._timeouts.upstream_connect):
                connection = await self._open_familiar()
                if connection is None:
                    connection = await self._open_socket()
                    self._remember(connection)
        except OSError as exc:
            raise _unreachable(self._upstream, exc) from exc
        if not connection.lost.is_set():  # else it has been forgotten before it was known
            self._open.add(connection)
        return connection

    async def _open_familiar(self) -> UpstreamConnection | None:
        """A connection to the address that the name had on this machine; None where it is not known, or not there."""
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
"""OpenSSL's reasons for a first answer that is no TLS record."""


def _tls_context(upstream: Upstream) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=upstream.ca_file)
    except OSError as exc:
        raise SettingError(
            f"--upstream-ca: cannot read {upstream.ca_file!r}: {exc.strerror or exc}.",
            hint="Use --upstream-ca FILE, with certificates in PEM format.",
        ) from exc
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION  # a write would have to wait for it
    if upstream.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _unreachable(upstream: Upstream, exc: OSError) -> UpstreamUnreachable:
    """What to tell of a connection that did not come up, and what may be done about it."""
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
