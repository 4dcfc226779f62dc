"""Connections to the upstream: opening and keeping them. No HTTP here."""

from __future__ import annotations

import asyncio
import socket
import ssl

from ..config import Limits, Timeouts
from ..errors import SettingError, UpstreamUnreachable
from ..upstream import Upstream
from .upstream_connection import UpstreamConnection, connect


class UpstreamPool:
    """Opens connections to one upstream and keeps those that have nothing to do for a while."""

    def __init__(self, upstream: Upstream, *, timeouts: Timeouts, limits: Limits) -> None:
        """Raises `SettingError` where the upstream's CA file cannot be used."""
        self._upstream = upstream
        self._timeouts = timeouts
        self._limits = limits
        self._tls = _tls_context(upstream) if upstream.scheme == "https" else None
        self._open: set[UpstreamConnection] = set()
        self._idle: dict[UpstreamConnection, asyncio.TimerHandle] = {}

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return len(self._idle)

    async def acquire(self, *, fresh: bool = False) -> UpstreamConnection:
        """An open connection, an idle one unless it must be ``fresh``. Raises `UpstreamUnreachable`."""
        while self._idle and not fresh:
            connection, timer = self._idle.popitem()  # the one used last: the others may go
            timer.cancel()
            if connection.usable:
                connection.idle, connection.reused = False, True
                return connection
        return await self._connect()

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose exchange ended in order; one that cannot be used again is closed."""
        if not connection.usable or len(self._idle) >= self._limits.idle_upstream:
            connection.abort()
            return
        connection.idle = True
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.call_later(self._timeouts.idle_upstream, connection.abort)

    async def aclose(self) -> None:
        """Close every connection, those in use too, and wait until their sockets are gone."""
        for connection in list(self._open):
            connection.abort()
            await connection.lost.wait()

    def _forget(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        timer = self._idle.pop(connection, None)
        if timer:
            timer.cancel()

    async def _connect(self) -> UpstreamConnection:
        try:
            async with asyncio.timeout(self._timeouts.upstream_connect):
                connection = await self._open_socket()
        except OSError as exc:
            raise _unreachable(self._upstream, exc) from exc
        self._open.add(connection)
        return connection

    async def _open_socket(self) -> UpstreamConnection:
        upstream = self._upstream
        return await connect(upstream.host, upstream.port, tls=self._tls, on_lost=self._forget)


def _tls_context(upstream: Upstream) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=upstream.ca_file)
    except OSError as exc:
        raise SettingError(
            f"The authorities in {upstream.ca_file} cannot be used: {exc.strerror or exc}.",
            hint="--upstream-ca names a file with certificates in PEM form.",
        ) from exc
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION  # a write would have to wait for it
    if upstream.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _unreachable(upstream: Upstream, exc: OSError) -> UpstreamUnreachable:
    """What to tell of a connection that did not come up, and what may be done about it."""
    where = upstream.origin
    match exc:
        case ssl.SSLCertVerificationError():
            message = f"The certificate of the upstream {where} is not trusted: {exc.verify_message}."
            hint = "Name the authority behind it with --upstream-ca FILE, or take any with --upstream-insecure."
        case ssl.SSLError():
            message = f"The upstream {where} does not speak TLS as we do: {exc.reason or exc}."
            hint = f"If it speaks plain HTTP: --upstream http://{where.partition('://')[2]}"
        case socket.gaierror():
            message = f"The upstream's name {upstream.host} is not known."
            hint = "Check the name in --upstream."
        case TimeoutError():
            message = f"The upstream {where} does not answer."
            hint = "Check the address in --upstream, and that no firewall is in between."
        case _:
            message = f"The upstream {where} does not accept connections."
            hint = "Is the model server running there? Another address is given with --upstream."
    return UpstreamUnreachable(message, hint=hint)
