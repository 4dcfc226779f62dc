"""The WebSocket to the signal server: one connection, from joining until it is lost."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from .. import descriptors, platforms
from ..config import Limits, Timeouts
from ..errors import (
    AccessDenied,
    ProtocolError,
    RoomFull,
    SignalError,
    SignalRejected,
    SignalRestarting,
    SignalUnreachable,
)
from ..invite import DEFAULT_SIGNAL
from ..status import Role
from ..transport.networks import Reach, reach
from ..transport.websocket import Redirected, WebSocket, open_websocket, proxy_failure, proxy_for
from . import messages
from .messages import Joined, Message, ServerError

logger = logging.getLogger(__name__)

HEARTBEAT: Final = 12.0
"""Seconds between pings to the server. The connection counts as lost if no answer arrives within half of that."""
RUBBISH: Final = 100
"""Invalid messages after which we abandon the server."""

GIVE_A_TOKEN: Final = (
    "Ask its operator for a token, and use --signal-token-file FILE, --signal-token TOKEN or the variable"
    " TUNNEL_SIGNAL_TOKEN (in Python: signal_token=). If TUNNEL_SIGNAL is set too, that variable is only for the signal"
    " server that it names."
)
_STOPPING: Final = (1001, 1012)
"""Close codes of a server, or of an HTTP server in front of it, that stops (RFC 6455 section 7.4.1, and IANA's list of
close codes). It, or another one, will soon accept connections at the same address."""

RUN_YOUR_OWN: Final = "Is it running, and is --signal right? `llmtunnel signal` runs your own."


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
        """Open the WebSocket. Raises `SignalUnreachable` with a hint."""
        import aiohttp

        try:
            opened = await open_websocket(
                url, timeout=timeouts.signal, heartbeat=HEARTBEAT, max_msg_size=limits.signal_message
            )
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise _unreachable(url, exc) from exc
        return cls(opened, url=url, timeouts=timeouts)

    @property
    def reach(self) -> Reach:
        """From where the signal server can be reached. This determines which STUN and TURN servers it may name.

        Behind an HTTP proxy, we do not see its address. Unless the URL contains it, the server counts as public.
        """
        if proxy_for(self._url) is None:
            host = str((self._socket.get_extra_info("peername") or ("",))[0])
        else:
            host = urlsplit(self._url).hostname or ""
        found = reach(host)
        return Reach.PUBLIC if found is None else found

    @property
    def server_date(self) -> str | None:
        """The server's clock when it accepted the connection, from its ``Date`` field; None if it sent none."""
        return self._socket._response.headers.get("Date")

    async def join(
        self, room: str, *, role: Role, instance: str, token: str | None = None, access: str | None = None
    ) -> Joined:
        """Join a room. Raises `AccessDenied`, `RoomFull`, `SignalRejected`, `SignalRestarting` or `SignalUnreachable`.

        ``token`` and ``access``: see `messages.join`.
        """
        try:
            async with asyncio.timeout(self._timeouts.signal):
                await self.send(messages.join(room, role=role, instance=instance, token=token, access=access))
                while True:
                    match await self.receive():
                        case Joined() as joined:
                            return joined
                        case ServerError(code="access-token"):
                            raise self._denied(access)
                        case ServerError() as error:
                            raise self._refusal(error)
        except TimeoutError as exc:
            raise SignalUnreachable(
                f"{self._url} did not answer when this side asked to join the room.", hint="Is it a signal server?"
            ) from exc

    async def send(self, message: str) -> None:
        """Send one message. Waits while the server does not read. Raises `SignalUnreachable`."""
        try:
            await self._socket.send_str(message)
        except (OSError, RuntimeError) as exc:  # aiohttp: ConnectionResetError, or RuntimeError on a closed socket
            raise self._lost() from exc

    async def receive(self) -> Message:
        """Return the next valid message.

        Raises `SignalRestarting` if the server has closed the connection because it stops, and `SignalUnreachable` if
        the connection is lost.
        """
        import aiohttp

        while self._rubbish < RUBBISH:
            raw = await self._socket.receive()
            if raw.type is aiohttp.WSMsgType.TEXT:
                message = self._parse(raw.data)
                if message is not None:
                    return message
            elif raw.type is aiohttp.WSMsgType.BINARY:
                self._reject("binary data")
            elif raw.type is aiohttp.WSMsgType.CLOSE and raw.data in _STOPPING:
                raise self._restarting()
            else:
                raise self._lost()
        raise SignalUnreachable(
            f"{self._url} sends messages that no signal server sends.", hint="Is it a signal server?"
        )

    async def aclose(self) -> None:
        """Leave by closing the connection. Idempotent."""
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
        logger.warning("a message from the signal server was ignored: %s", why)

    def _denied(self, access: str | None) -> AccessDenied:
        if access is None:
            return AccessDenied(
                f"The signal server {self._url} is private: it requires an access token.", hint=GIVE_A_TOKEN
            )
        return AccessDenied(
            f"The signal server {self._url} does not accept the access token.",
            hint="Check --signal-token (in Python: signal_token=), or ask the server's operator for a valid token.",
        )

    def _refusal(self, error: ServerError) -> SignalError:
        return self._restarting() if error.code == "draining" else _refusal(error)

    def _restarting(self) -> SignalRestarting:
        return SignalRestarting(f"The signal server {self._url} restarts, and has asked this side to connect again.")

    def _lost(self) -> SignalUnreachable:
        return SignalUnreachable(f"The connection to the signal server {self._url} was lost.", hint=RUN_YOUR_OWN)


_GHOST: Final = "A side that crashed may keep its place for a while."


def _refusal(error: ServerError) -> RoomFull | SignalRejected:
    if error.code == "room-full":
        return RoomFull(f"The signal server says: {error.message}.", hint=_GHOST)
    if error.code is None and "is full" in error.message:
        return RoomFull(
            f"The signal server says: {error.message}.",
            hint=f"{_GHOST} `llmtunnel signal` runs a server with larger rooms.",
        )
    return SignalRejected(f"The signal server rejected the request: {error.message}.")


def _unreachable(url: str, exc: Exception) -> SignalUnreachable:
    message, hint = _diagnosis(url, exc)
    return SignalUnreachable(message, hint=hint)


def _diagnosis(url: str, exc: Exception) -> tuple[str, str]:
    """Return what failed, and what to do about it."""
    import aiohttp

    if none_left := descriptors.shortage(exc):
        return f"Cannot connect to the signal server {url}: {none_left}.", descriptors.RAISE_IT
    if failure := proxy_failure(url, exc):
        return f"Cannot reach the signal server {url}. {failure[0]}", failure[1]
    match exc:
        case TimeoutError():
            return f"The signal server {url} did not answer in time.", RUN_YOUR_OWN
        case Redirected(to=to):
            return (
                f"The signal server {url} redirects to {to}, and llmtunnel does not follow redirects.",
                f"If you trust that address, use --signal {to}.",
            )
        case aiohttp.WSServerHandshakeError(status=502 | 503 | 504):  # the answer of an HTTP server in front of it
            return (
                f"The signal server {url} is not available now: the answer was HTTP status {exc.status}.",
                "If that lasts, tell its operator.",
            )
        case aiohttp.WSServerHandshakeError():
            return f"{url} is not a signal server: it answered with HTTP status {exc.status}.", "Check --signal."
        case aiohttp.ClientConnectorCertificateError():
            return (
                f"The certificate of the signal server {url} is not trusted: {exc.certificate_error}.",
                "Check the address. On a network that inspects TLS, set SSL_CERT_FILE to its certificate.",
            )
        case aiohttp.ClientConnectorSSLError():
            return f"The signal server {url} does not speak TLS.", f"Try --signal ws://{url.partition('://')[2]}."
        case aiohttp.ClientConnectorDNSError():
            return f"Cannot look up {exc.host}.", _online(url)
        case aiohttp.InvalidURL():
            return f"--signal: not a signal server's address: {url!r}.", "Use ws://host:port or wss://host."
        case aiohttp.ClientConnectorError():
            return f"Cannot reach the signal server {url}: {_reason(exc.os_error)}.", RUN_YOUR_OWN
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return f"The signal server {url} closed the connection.", "Does it need wss:// instead of ws://?"
    return f"{url} is not a signal server: it did not answer with HTTP.", "Check --signal."


def _online(url: str) -> str:
    """Return a hint for a name that cannot be looked up."""
    ask = "Is this machine online?" if url == DEFAULT_SIGNAL else "Is this machine online, and is --signal right?"
    on_kaggle = platforms.platform() is platforms.Platform.KAGGLE
    return f"{ask} On Kaggle, switch Internet on in the notebook's settings." if on_kaggle else ask


def _reason(exc: OSError) -> str:
    """Return the reason, without asyncio's list of addresses in the most common case."""
    return "nothing listens there" if isinstance(exc, ConnectionRefusedError) else exc.strerror or str(exc)
