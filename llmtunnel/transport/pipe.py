"""A channel over a pipe: whatever carries bytes in order, and is not trusted with them, as an asyncio transport.

A TCP connection is one (`tcp`), a WebSocket through a relay another (`relay`). `tls.Tls` does all that matters; here it
meets the loop: what waits, how long, and the end.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Final, cast

from ..config import KIB
from ..descriptors import keep_from_children
from ..errors import ChannelClosed, ConnectFailed, ProtocolError
from ..listener import netloc
from ..paths import Path
from .base import Binding, Channel, Receiver
from .identity import Identity
from .tls import Tls, Welcome, anybody

_QUEUE: Final = 64 * KIB
"""Bytes that wait for the pipe before a channel has no more room."""
_QUEUE_LOW: Final = 32 * KIB
_QUEUE_MOST: Final = 256 * KIB
"""Bytes that may wait in all. We never have more than the queue and one message; the rest is what TLS answers to a peer
that asks for new keys and does not read."""
_UNSENT: Final = 128 * KIB
"""Bytes that the system takes beyond what is on the way: it would take megabytes, and a token would wait behind."""
_STRANGER: Final = 128 * KIB
"""Bytes that a peer may send before it is let in (`Channel.trust`): a handshake has 2 KB, and a hello and its proof 64
at most."""
_STEP: Final = 16 * KIB
"""Bytes of a stranger that are looked at before it is asked whether it is one still."""
_DRAIN: Final = 1.0
"""Seconds that an orderly close waits for what is queued and for the peer's word."""


class TlsChannel(Channel, asyncio.Protocol):
    """One end of a channel. Give it to what makes the pipe as its protocol, then wait for `stand`.

    ``server``: the end that waits to be spoken to, one of the two. ``welcome`` says whose certificate is let in;
    ``path`` and ``address`` are what the channel says of itself; the address is the pipe's other end, unless given.
    """

    def __init__(
        self, identity: Identity, *, server: bool, path: Path, welcome: Welcome = anybody, address: str = ""
    ) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._tls = Tls(identity, server=server, welcome=welcome)
        self._path = path
        self._address = address
        self._pipe: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._early: list[bytes] = []
        """Messages that were in the handshake's last step."""
        self._unread = b""
        """Bytes that were read with the handshake's last, kept until there is a receiver."""
        self._allowance: int | None = _STRANGER
        """Bytes that may still come; None: any number."""
        self._full = False
        self._reason: str | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        self._gone = asyncio.Event()
        self._giving_up: asyncio.TimerHandle | None = None

    async def stand(self, timeout: float) -> None:
        """Return when TLS stands. Raises `ConnectFailed` where it does not in ``timeout`` s; it is closed then."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._opened)
        except TimeoutError:
            self.give_up(f"the other end did not finish the TLS handshake within {timeout:g} s")
            await self._opened
        except asyncio.CancelledError:
            self.give_up("cancelled on this side")
            raise

    def give_up(self, reason: str) -> None:
        """Close at once: nothing more is sent, and nothing waited for."""
        self._lose(reason)
        if self._pipe is not None:
            self._pipe.abort()

    @property
    def gone(self) -> bool:
        """Whether the pipe has been there, and is closed."""
        return self._gone.is_set()

    # -- as `Channel`

    def attach(self, receiver: Receiver) -> None:
        """As `Channel.attach`; what has already come follows in the loop's next round."""
        self._loop.call_soon(self._begin, receiver)

    @property
    def has_room(self) -> bool:
        """As `Channel.has_room`."""
        return self._reason is None and self._tls.binding is not None and not self._full

    def send(self, message: bytes) -> None:
        """As `Channel.send`."""
        if self._reason is not None:
            raise ChannelClosed(self._reason)
        self._tls.send(message)
        self._flush()

    async def aclose(self) -> None:
        """As `Channel.aclose`."""
        self._end("closed by us")
        if self._pipe is not None:
            await self._gone.wait()  # `_giving_up` ends it after `_DRAIN` s at most

    @property
    def path(self) -> Path:
        """As `Channel.path`."""
        return self._path

    @property
    def binding(self) -> Binding | None:
        """As `Channel.binding`."""
        return self._tls.binding

    @property
    def address(self) -> str:
        """As `Channel.address`."""
        return self._address

    def trust(self) -> None:
        """As `Channel.trust`."""
        self._allowance = None

    # -- as asyncio's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The pipe is there."""
        self._pipe = pipe = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._address = self._address or _peer_address(pipe)
        keep_from_children(pipe)
        pipe.set_write_buffer_limits(high=_QUEUE, low=_QUEUE_LOW)
        keep_unsent_short(pipe)
        if self._reason is None:
            self._flush()
        else:
            pipe.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes came. What comes after the end is thrown away."""
        if self._reason is None:
            self._unread = self._unread + data if self._unread else data
            self._advance()

    def eof_received(self) -> None:
        """The pipe is closed at its other end, and now at this one."""

    def pause_writing(self) -> None:
        """The pipe takes no more."""
        self._full = True

    def resume_writing(self) -> None:
        """It takes more."""
        self._full = False
        if self._receiver is not None and self.has_room:
            self._receiver.room_available()

    def connection_lost(self, exc: Exception | None) -> None:
        """The pipe is gone."""
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._gone.set()
        self._lose(_why(exc))

    # -- what comes in

    def _begin(self, receiver: Receiver) -> None:
        self._receiver = receiver
        early, self._early = self._early, []
        for message in early:
            receiver.message_received(message)
        self._advance()
        if self._reason is None and self._pipe is not None:
            self._pipe.resume_reading()
        self._tell_closed()

    def _advance(self) -> None:
        """Take what is unread, a stranger's by steps, and before there is a receiver only the handshake."""
        while self._unread and self._reason is None:
            if self._tls.binding is not None and self._receiver is None:
                return
            size = len(self._unread) if self._allowance is None else _STEP
            step, self._unread = self._unread[:size], self._unread[size:]
            self._take(step)

    def _take(self, data: bytes) -> None:
        if self._allowance is not None:
            self._allowance -= len(data)
            if self._allowance < 0:
                self._lose("the peer sends more than was agreed")
                return
        try:
            messages = self._tls.receive(data)
        except ProtocolError as exc:
            self._flush()
            self._lose(exc.message)
            return
        self._flush()
        self._tell_open()
        for message in messages:
            self._deliver(message)
        if self._tls.ended:
            self._end("closed by the peer")
        elif self._pipe is not None and self._pipe.get_write_buffer_size() > _QUEUE_MOST:
            self._lose("the peer does not read what it asked for")

    def _tell_open(self) -> None:
        if self._tls.binding is None or self._opened.done():
            return
        self._opened.set_result(None)
        if self._receiver is None and self._pipe is not None:
            self._pipe.pause_reading()

    def _deliver(self, message: bytes) -> None:
        if self._receiver is None:
            self._early.append(message)
        elif self._reason is None:
            self._receiver.message_received(message)

    # -- what goes out, and the end

    def _flush(self) -> None:
        data = self._tls.bytes_to_send()
        if data and self._pipe is not None:
            self._pipe.write(data)

    def _end(self, reason: str) -> None:
        """Close in order: behind all that was sent goes the word that it is all."""
        if self._reason is None:
            self._tls.close()
            self._flush()
            self._lose(reason)

    def _lose(self, reason: str) -> None:
        """The channel is gone; the first reason is told."""
        if self._reason is not None:
            return
        self._reason = reason
        self._unread = b""
        if not self._opened.done():
            self._opened.set_exception(ConnectFailed(f"Cannot reach the peer over {self._path}: {reason}."))
        self._loop.call_soon(self._tell_closed)
        if self._pipe is not None and not self._gone.is_set():
            self._hang_up(self._pipe)

    def _hang_up(self, pipe: asyncio.Transport) -> None:
        """End our half and wait for the other's, for a moment: what we have sent would be lost where it is cut now."""
        self._giving_up = self._loop.call_later(_DRAIN, pipe.abort)
        if not pipe.is_closing():
            pipe.resume_reading()
            with suppress(OSError):  # a reset has come that the loop has not seen: it calls connection_lost
                pipe.write_eof()

    def _tell_closed(self) -> None:
        if self._receiver is not None and self._reason is not None:
            receiver, self._receiver = self._receiver, None
            receiver.channel_closed(self._reason)


def keep_unsent_short(transport: asyncio.BaseTransport) -> None:
    """Have the system take no more than is soon on its way, where it knows how (Linux, macOS)."""
    end = transport.get_extra_info("socket")
    if end is not None and hasattr(socket, "TCP_NOTSENT_LOWAT") and end.family != getattr(socket, "AF_UNIX", None):
        with suppress(OSError):  # macOS: it is reset already
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)


def _peer_address(transport: asyncio.BaseTransport) -> str:
    """Empty where the other end has none: a Unix socket."""
    match transport.get_extra_info("peername"):
        case (str(host), int(port), *_):
            return netloc(host, port)
    return ""


def _why(exc: Exception | None) -> str:
    if exc is None:
        return "the connection was cut"
    return f"the connection broke: {getattr(exc, 'strerror', None) or exc}"
