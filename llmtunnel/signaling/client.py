"""The WebSocket to the signal server: one connection, from join to its loss."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from ..config import Limits, Timeouts
from ..errors import ProtocolError, RoomFull, SignalRejected, SignalUnreachable
from ..status import Role
from .messages import Joined, Message, ServerError, join, parse

if TYPE_CHECKING:
    import aiohttp

logger = logging.getLogger(__name__)

HEARTBEAT: Final = 15.0
"""Seconds between pings to the server; silence of half of that more, and it is lost."""
RUBBISH: Final = 100
"""Messages that make no sense after which the server is given up."""


class SignalClient:
    """A connection to a signal server: `connect`, `join`, then `send` and `receive` until it breaks."""

    def __init__(
        self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse, url: str, wait: float
    ) -> None:
        self._http = http
        self._socket = socket
        self._url = url
        self._wait = wait
        self._rubbish = 0

    @classmethod
    async def connect(cls, url: str, *, timeouts: Timeouts, limits: Limits) -> SignalClient:
        """Open the WebSocket. Raises `SignalUnreachable` with what to do.

        An HTTP proxy that the environment names is used, and the system's certificates for ``wss``.
        """
        import aiohttp

        http = aiohttp.ClientSession(trust_env=True)
        try:
            async with asyncio.timeout(timeouts.signal):
                socket = await http.ws_connect(url, heartbeat=HEARTBEAT, max_msg_size=limits.signal_message)
        except BaseException as exc:
            await http.close()
            if isinstance(exc, aiohttp.ClientError | OSError | TimeoutError | ValueError):
                raise _unreachable(url, exc) from exc
            raise
        return cls(http, socket, url, timeouts.signal)

    async def join(self, room: str, *, role: Role, instance: str, token: str | None = None) -> Joined:
        """Enter a room. Raises `RoomFull`, `SignalRejected` or `SignalUnreachable`."""
        await self.send(join(room, role=role, instance=instance, token=token))
        try:
            async with asyncio.timeout(self._wait):
                while True:
                    message = await self.receive()
                    if isinstance(message, Joined):
                        return message
                    if isinstance(message, ServerError):
                        raise _refusal(message)
        except TimeoutError as exc:
            raise SignalUnreachable(f"The signal server {self._url} does not answer our join.") from exc

    async def send(self, message: str) -> None:
        """Send one message. Raises `SignalUnreachable`."""
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
                self._rubbish += 1
            else:
                raise self._lost()
        raise SignalUnreachable(f"{self._url} sends messages that make no sense.", hint="Is it a signal server?")

    async def aclose(self) -> None:
        """Leave, by closing the connection; idempotent."""
        try:
            await self._socket.close()
        finally:
            await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _parse(self, text: str) -> Message | None:
        try:
            return parse(text)
        except ProtocolError as exc:
            self._rubbish += 1
            logger.warning("the signal server sent a message that makes no sense: %s", exc)
            return None

    def _lost(self) -> SignalUnreachable:
        return SignalUnreachable(f"The connection to the signal server {self._url} is lost.")


def _refusal(error: ServerError) -> RoomFull | SignalRejected:
    if error.code == "room-full" or "is full" in error.message:
        return RoomFull(
            "The room is full.",
            hint="Another serve or proxy is in it, perhaps one that crashed and that the server has not noticed yet.",
        )
    return SignalRejected(f"The signal server refuses us: {error.message}")


def _unreachable(url: str, exc: BaseException) -> SignalUnreachable:
    import aiohttp

    hint = "Is it running, and is --signal right? Run one of your own with `llmtunnel signal`."
    match exc:
        case aiohttp.WSServerHandshakeError():
            return SignalUnreachable(f"{url} answers, but is no signal server (HTTP {exc.status}).", hint=hint)
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return SignalUnreachable(
                f"The signal server {url} has no certificate that this machine trusts.",
                hint="Check the address, or use ws:// for a server of your own on this machine.",
            )
        case aiohttp.ClientConnectorDNSError():
            return SignalUnreachable(f"The signal server's name in {url} is unknown.", hint="Check --signal.")
        case TimeoutError():
            return SignalUnreachable(f"The signal server {url} does not answer in time.", hint=hint)
    return SignalUnreachable(f"The signal server {url} cannot be reached: {exc}.", hint=hint)
