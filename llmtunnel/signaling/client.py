"""The WebSocket to the signal server: one connection, from join to its loss."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Final, Self

from .. import descriptors
from ..config import Limits, Timeouts
from ..errors import ProtocolError, RoomFull, SignalRejected, SignalUnreachable
from ..status import Role
from ..transport.websocket import Redirected, WebSocket, open_websocket, proxy_failure
from . import messages
from .messages import Joined, Message, ServerError

logger = logging.getLogger(__name__)

HEARTBEAT: Final = 12.0
"""Seconds between pings to the server; half of that without an answer, and it is lost: after 18 s at most."""
RUBBISH: Final = 100
"""Messages that make no sense after which the server is given up."""

RUN_YOUR_OWN: Final = "Is it running, and is --signal right? `llmtunnel signal` runs one of your own."


class SignalClient:
    """A connection to a signal server: `connect`, `join`, then `send` and `receive` until it breaks."""

    def __init__(self, opened: WebSocket, *, url: str, timeouts: Timeouts) -> None:
        self._opened = opened
        self._socket = opened.socket
        self._url = url
        self._timeouts = timeouts
        self._rubbish = 0

    @classmethod
    async def connect(cls, url: str, *, timeouts: Timeouts, limits: Limits) -> SignalClient:
        """Open the WebSocket. Raises `SignalUnreachable` with what to do."""
        import aiohttp

        try:
            opened = await open_websocket(
                url, timeout=timeouts.signal, heartbeat=HEARTBEAT, max_msg_size=limits.signal_message
            )
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise _unreachable(url, exc) from exc
        return cls(opened, url=url, timeouts=timeouts)

    @property
    def server_date(self) -> str | None:
        """The server's clock when it took the connection, as its ``Date`` field; None where it sent none."""
        return self._socket._response.headers.get("Date")

    async def join(self, room: str, *, role: Role, instance: str, token: str | None = None) -> Joined:
        """Enter a room. Raises `RoomFull`, `SignalRejected` or `SignalUnreachable`."""
        try:
            async with asyncio.timeout(self._timeouts.signal):
                await self.send(messages.join(room, role=role, instance=instance, token=token))
                while True:
                    match await self.receive():
                        case Joined() as joined:
                            return joined
                        case ServerError() as error:
                            raise _refusal(error)
        except TimeoutError as exc:
            raise SignalUnreachable(
                f"The signal server {self._url} does not answer our join.", hint="Is it a signal server?"
            ) from exc

    async def send(self, message: str) -> None:
        """Send one message; waits while the server does not read. Raises `SignalUnreachable`."""
        try:
            await self._socket.send_str(message)
        except (OSError, RuntimeError) as exc:  # aiohttp: ConnectionResetError, or RuntimeError on a closed socket
            raise self._lost() from exc

    async def receive(self) -> Message:
        """The next message that makes sense. Raises `SignalUnreachable` when the connection is gone."""
        import aiohttp

        while self._rubbish < RUBBISH:
            raw = await self._socket.receive()
            if raw.type is aiohttp.WSMsgType.TEXT:
                message = self._parse(raw.data)
                if message is not None:
                    return message
            elif raw.type is aiohttp.WSMsgType.BINARY:
                self._reject("binary data")
            else:
                raise self._lost()
        raise SignalUnreachable(f"{self._url} sends messages that make no sense.", hint="Is it a signal server?")

    async def aclose(self) -> None:
        """Leave, by closing the connection; idempotent."""
        await self._opened.aclose(self._timeouts.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _parse(self, text: str) -> Message | None:
        try:
            return messages.parse(text)
        except ProtocolError as exc:
            self._reject(exc.message)
            return None

    def _reject(self, why: str) -> None:
        self._rubbish += 1
        logger.warning("a message from the signal server is left out: %s", why)

    def _lost(self) -> SignalUnreachable:
        return SignalUnreachable(f"The connection to the signal server {self._url} is lost.", hint=RUN_YOUR_OWN)


def _refusal(error: ServerError) -> RoomFull | SignalRejected:
    if error.code == "room-full":
        return RoomFull(f"The signal server says: {error.message}.", hint="A peer that crashed may still sit in it.")
    if error.code is None and "is full" in error.message:
        return RoomFull(
            f"The signal server says: {error.message}.",
            hint="A peer that crashed may still sit in it. `llmtunnel signal` runs a server that takes more.",
        )
    return SignalRejected(f"The signal server refuses us: {error.message}.")


def _unreachable(url: str, exc: Exception) -> SignalUnreachable:
    message, hint = _diagnosis(url, exc)
    return SignalUnreachable(message, hint=hint)


def _diagnosis(url: str, exc: Exception) -> tuple[str, str]:
    """What went wrong, and what to do about it."""
    import aiohttp

    if none_left := descriptors.shortage(exc):
        return f"The signal server {url} cannot be connected to: {none_left}.", descriptors.RAISE_IT
    if failure := proxy_failure(url, exc):
        return f"The signal server {url} cannot be reached. {failure[0]}", failure[1]
    match exc:
        case TimeoutError():
            return f"The signal server {url} does not answer in time.", RUN_YOUR_OWN
        case Redirected(to=to):
            return (
                f"The signal server {url} redirects to {to}, and llmtunnel does not follow redirects.",
                f"If you trust that address, use it yourself: --signal {to}.",
            )
        case aiohttp.WSServerHandshakeError():
            return f"{url} answers, but is no signal server (HTTP status {exc.status}).", "Check --signal."
        case aiohttp.ClientConnectorCertificateError():
            return (
                f"The signal server {url} has no certificate that this machine trusts: {exc.certificate_error}.",
                "Check the address; on networks that inspect TLS, SSL_CERT_FILE names the certificate to trust.",
            )
        case aiohttp.ClientConnectorSSLError():
            return f"The signal server {url} does not speak TLS.", "Is it a ws:// one?"
        case aiohttp.ClientConnectorDNSError():
            return f"The name in {url} is not known.", "Check --signal, and that this machine is online."
        case aiohttp.InvalidURL():
            return f"{url!r} is not a signal server's address.", "It is like ws://host:port or wss://host."
        case aiohttp.ClientConnectorError():
            return f"The signal server {url} cannot be reached: {_reason(exc.os_error)}.", RUN_YOUR_OWN
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return f"The signal server {url} hung up.", "Does it want wss:// in place of ws://?"
    return f"{url} answers, but is no signal server: {exc}.", "Check --signal."


def _reason(exc: OSError) -> str:
    """Why, without asyncio's list of addresses for the commonest."""
    return "nothing listens there" if isinstance(exc, ConnectionRefusedError) else exc.strerror or str(exc)
