"""A channel through the signal server's relay: a WebSocket to it, on whatever port it has, encrypted to the peer.

    us                          relay                         peer
    ── WebSocket, our ticket ──→      ←── WebSocket, its ticket ──
    ←─ TLS, as `tls` says, in binary messages that the relay passes on unchanged ─→

With a page, the pipe has the sealed form instead of TLS (`sealed`). The proxy decides that by its first byte.

Both peers receive their tickets in the room (signaling/messages.py). The relay sees ciphertext, its size and its time.
If it changes anything, the channel ends.

A server with several instances begins a ticket with the name of the one where the two ends meet. The WebSocket is then
opened at ``/at/NAME`` below the signal server's URL, so that its load balancer can choose that instance. Scheme, host
and port stay those that the user has configured.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Final
from urllib.parse import urlsplit

from .. import descriptors
from ..config import KIB, Timeouts
from ..errors import ConnectFailed
from ..listener import netloc
from ..paths import Path
from .base import Channel
from .identity import Identity
from .pipe import PipeChannel
from .sealed import EitherForm
from .tasks import first_of, report
from .tls import Tls, Welcome, anybody
from .websocket import Redirected, WebSocket, open_websocket, proxy_failure

_log = logging.getLogger(__name__)

PROTOCOL: Final = "llmtunnel-relay"
"""The WebSocket subprotocol of a pipe. The ticket is offered as a second one."""
_INSTANCE: Final = re.compile(r"([A-Za-z0-9_-]{1,63})\.")
"""The beginning of a ticket that names an instance."""
_MESSAGE: Final = 64 * KIB
"""Maximum bytes in one message of a pipe."""


async def open_relay(
    url: str, ticket: str, *, identity: Identity, server: bool, timeouts: Timeouts, welcome: Welcome = anybody
) -> Channel:
    """Open and return a channel to the peer that has the other ticket. Raises `ConnectFailed`.

    ``url``: the signal server's. ``server``: whether we are serve, which waits for the other end to choose the form.
    """
    form = EitherForm(identity, welcome=welcome) if server else Tls(identity, server=False, welcome=welcome)
    channel = PipeChannel(form, path=Path.RELAY, address=_address(url))
    SocketTransport(await _connect(url, ticket, timeouts), channel, patience=timeouts.close)
    try:
        await channel.stand(timeouts.connect)
    except BaseException:
        await channel.aclose()
        raise
    return channel


async def _connect(url: str, ticket: str, timeouts: Timeouts) -> WebSocket:
    import aiohttp

    try:
        opened = await open_websocket(
            _at_instance(url, ticket),
            timeout=timeouts.signal,
            protocols=(PROTOCOL, ticket),
            max_msg_size=_MESSAGE + 1,
            autoclose=False,
        )
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise ConnectFailed(f"Cannot reach the peer over {Path.RELAY}: {_reason(url, exc)}.") from exc
    if opened.socket.protocol != PROTOCOL:
        await opened.aclose(timeouts.close)
        raise ConnectFailed(f"Cannot reach the peer over {Path.RELAY}: {url} is not a relay.")
    return opened


class SocketTransport(asyncio.Transport):
    """A WebSocket as the asyncio transport of a protocol: bytes in, bytes out, in messages of any size.

    It lives until either end closes. Then it closes its HTTP session too, and tells the protocol last.
    """

    def __init__(self, opened: WebSocket, protocol: asyncio.Protocol, *, patience: float) -> None:
        super().__init__({"socket": opened.socket.get_extra_info("socket")})
        self._opened = opened
        self._socket = opened.socket
        self._protocol = protocol
        self._patience = patience
        self._high, self._low = _MESSAGE, _MESSAGE
        self._queue = bytearray()
        self._leaving = 0
        """Bytes that are being passed to the socket."""
        self._full = False
        self._ending = False
        self._changed = asyncio.Event()
        self._aborted = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()
        self._task = asyncio.create_task(self._run(), name="relay")
        self._task.add_done_callback(report)
        protocol.connection_made(self)

    # -- as an asyncio transport

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As asyncio's."""
        self._high = _MESSAGE if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """As asyncio's."""
        return len(self._queue) + self._leaving

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """As asyncio's."""
        self._queue += data
        self._changed.set()
        if not self._full and self.get_write_buffer_size() > self._high:
            self._full = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        """Close after the queued bytes. What still arrives is lost, since a WebSocket has no halves."""
        self._ending = True
        self._changed.set()

    def pause_reading(self) -> None:
        """As asyncio's, except for one message that may already be awaited."""
        self._readable.clear()

    def resume_reading(self) -> None:
        """As asyncio's."""
        self._readable.set()

    def is_closing(self) -> bool:
        """As asyncio's."""
        return self._ending or self._aborted.is_set() or self._task.done()

    def close(self) -> None:
        """As asyncio's."""
        self.write_eof()

    def abort(self) -> None:
        """As asyncio's."""
        self._aborted.set()

    # -- the socket

    async def _run(self) -> None:
        error = None
        try:
            await first_of(self._read(), self._write(), self._wait_aborted(), name="relay pump")
        except (OSError, RuntimeError) as exc:  # aiohttp raises RuntimeError on a closed socket
            error = exc
        finally:
            try:
                await self._opened.aclose(0.0 if error or self._aborted.is_set() else self._patience)
            except OSError as exc:
                error = error or exc
            finally:
                self._protocol.connection_lost(error)

    async def _read(self) -> None:
        import aiohttp

        while True:
            await self._readable.wait()
            raw = await self._socket.receive()
            if raw.type is aiohttp.WSMsgType.BINARY:
                self._protocol.data_received(raw.data)
            elif raw.type is aiohttp.WSMsgType.CLOSE and raw.data == aiohttp.WSCloseCode.OK:
                return
            elif raw.type is aiohttp.WSMsgType.CLOSE:
                raise ConnectionAbortedError(f"the relay says: {_shown(raw.extra or str(raw.data))}")
            else:
                raise ConnectionAbortedError("the relay closed the connection")

    async def _write(self) -> None:
        while await self._wait_for_more():
            data = bytes(self._queue[:_MESSAGE])
            del self._queue[:_MESSAGE]
            self._leaving = len(data)
            await self._socket.send_bytes(data)
            self._leaving = 0
            if self._full and len(self._queue) <= self._low:
                self._full = False
                self._protocol.resume_writing()

    async def _wait_aborted(self) -> None:
        await self._aborted.wait()  # with the pipe, the other two end this

    async def _wait_for_more(self) -> bool:
        """Wait for bytes to send. Return False at the end."""
        while not self._queue and not self._ending:
            self._changed.clear()
            await self._changed.wait()
        return bool(self._queue)


def _at_instance(url: str, ticket: str) -> str:
    """Return the URL at which to use a ticket."""
    named = _INSTANCE.match(ticket)
    if named is None:
        return url
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/at/{named[1]}").geturl()


def _address(url: str) -> str:
    parts = urlsplit(url)
    return netloc(parts.hostname or "", parts.port or (443 if parts.scheme == "wss" else 80))


def _reason(url: str, exc: Exception) -> str:
    import aiohttp

    if none_left := descriptors.shortage(exc):
        return none_left
    if failure := proxy_failure(url, exc):
        return failure[0].removesuffix(".")
    match exc:
        case TimeoutError():
            return "the relay did not answer in time"
        case Redirected(to=to):
            return f"the relay redirects to {to}, and llmtunnel does not follow redirects"
        case aiohttp.WSServerHandshakeError(status=403):
            return "the relay rejected our ticket"
        case aiohttp.WSServerHandshakeError(status=503):
            return "the relay has no free pipe for us"
        case aiohttp.WSServerHandshakeError():
            return f"the server has no relay (HTTP status {exc.status})"
    return f"cannot connect to the relay: {exc}"


def _shown(text: str) -> str:
    """Return the relay's text (at most 123 bytes) in a form that is safe for a terminal."""
    return "".join(each if each.isprintable() else " " for each in text)
