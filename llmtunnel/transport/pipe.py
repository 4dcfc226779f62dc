"""A channel over a pipe: any untrusted carrier of ordered bytes, as an asyncio transport.

A TCP connection is such a pipe (`tcp`), and so is a WebSocket through a relay (`relay`). A `Form` does the essential
work: `tls.Tls`, or `sealed.Sealed` with a page in a browser. This module connects it to the loop: queues, time limits
and the end.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Final, Protocol, cast

from ..config import KIB
from ..descriptors import keep_from_children
from ..errors import ChannelClosed, ConnectFailed, ProtocolError
from ..listener import netloc
from ..paths import Path
from .base import Binding, Channel, Receiver
from .identity import Identity
from .tls import Tls, Welcome, anybody

_QUEUE: Final = 64 * KIB
"""Bytes in the send queue at which a channel has no more room."""
_QUEUE_LOW: Final = 32 * KIB
_QUEUE_MOST: Final = 256 * KIB
"""Maximum bytes in the send queue. We never have more than the queue and one message. The rest is for TLS's answers to
a peer that asks for new keys and does not read."""
_UNSENT: Final = 128 * KIB
"""Bytes that the system accepts beyond what is under way. By default it accepts megabytes, and a token waits behind."""
_STRANGER: Final = 128 * KIB
"""Bytes that a peer may send before it is trusted (`Channel.trust`). A handshake has 2 KB, and a hello and its proof
at most 64 KB."""
_STEP: Final = 16 * KIB
"""Bytes of a stranger that are processed before we check again whether it still is one."""
_DRAIN: Final = 1.0
"""Seconds that an orderly close waits for queued bytes and for the peer's answer."""


class Form(Protocol):
    """What encrypts and authenticates the bytes of a pipe. `tls.Tls` describes the members."""

    @property
    def binding(self) -> Binding | None:
        """What ties an authentication to this channel; None until the handshake is complete."""

    @property
    def ended(self) -> bool:
        """Whether the other end has closed in order."""

    def receive(self, data: bytes | memoryview) -> list[bytes]:
        """Process received bytes, and return the messages that they complete. Raises `ProtocolError`."""

    def send(self, message: bytes) -> None:
        """Send a message."""

    def close(self) -> None:
        """Announce that nothing more follows."""

    def bytes_to_send(self) -> bytes:
        """Return the bytes for the other end."""


class PipeChannel(Channel, asyncio.Protocol):
    """One end of a channel. Pass it as the protocol to what makes the pipe, then wait for `stand`.

    The channel reports ``path`` and ``address``; by default, the address is that of the pipe's other end.
    """

    def __init__(self, form: Form, *, path: Path, address: str = "") -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._form = form
        self._path = path
        self._address = address
        self._pipe: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._early: list[bytes] = []
        """Messages that arrived with the handshake's last step."""
        self._unread = b""
        """Bytes that were read with the handshake's last ones, kept until there is a receiver."""
        self._allowance: int | None = _STRANGER
        """Bytes that may still arrive; None: any number."""
        self._full = False
        self._reason: str | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        self._gone = asyncio.Event()
        self._giving_up: asyncio.TimerHandle | None = None

    async def stand(self, timeout: float) -> None:
        """Return when the handshake is complete.

        Otherwise close the pipe after ``timeout`` s, and raise `ConnectFailed`.
        """
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._opened)
        except TimeoutError:
            self.give_up(f"the other end did not finish the handshake within {timeout:g} s")
            await self._opened
        except asyncio.CancelledError:
            self.give_up("cancelled on this side")
            raise

    def give_up(self, reason: str) -> None:
        """Close at once, without sending anything more and without waiting."""
        self._lose(reason)
        if self._pipe is not None:
            self._pipe.abort()

    @property
    def gone(self) -> bool:
        """Whether the pipe existed and has closed."""
        return self._gone.is_set()

    # -- as `Channel`

    def attach(self, receiver: Receiver) -> None:
        """As `Channel.attach`. What has already arrived follows in the loop's next turn."""
        self._loop.call_soon(self._begin, receiver)

    @property
    def has_room(self) -> bool:
        """As `Channel.has_room`."""
        return self._reason is None and self._form.binding is not None and not self._full

    def send(self, message: bytes, pipe: int = 0) -> None:
        """As `Channel.send`."""
        if self._reason is not None:
            raise ChannelClosed(self._reason)
        self._form.send(message)
        self._flush()

    async def aclose(self) -> None:
        """As `Channel.aclose`."""
        self._end("closed by us")
        if self._pipe is not None:
            await self._gone.wait()  # `_giving_up` ends it after at most `_DRAIN` s

    @property
    def path(self) -> Path:
        """As `Channel.path`."""
        return self._path

    @property
    def binding(self) -> Binding | None:
        """As `Channel.binding`."""
        return self._form.binding

    @property
    def address(self) -> str:
        """As `Channel.address`."""
        return self._address

    def trust(self, *, page: bool = False) -> None:
        """As `Channel.trust`."""
        self._allowance = None

    # -- as an asyncio protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Use the pipe, which is open now."""
        self._pipe = pipe = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from asyncio's
        self._address = self._address or _peer_address(pipe)
        keep_from_children(pipe)
        pipe.set_write_buffer_limits(high=_QUEUE, low=_QUEUE_LOW)
        keep_unsent_short(pipe)
        if self._reason is None:
            self._flush()
        else:
            pipe.abort()

    def data_received(self, data: bytes) -> None:
        """Process bytes. Those that arrive after the end are discarded."""
        if self._reason is None:
            self._unread = self._unread + data if self._unread else data
            self._advance()

    def eof_received(self) -> None:
        """Note that the other end has closed the pipe. Returning None closes this end too."""

    def pause_writing(self) -> None:
        """Note that the pipe accepts no more bytes."""
        self._full = True

    def resume_writing(self) -> None:
        """Note that the pipe accepts bytes again."""
        self._full = False
        if self._receiver is not None and self.has_room:
            self._receiver.room_available()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the pipe has closed."""
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._gone.set()
        self._lose(_why(exc))

    # -- receiving

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
        """Process unread bytes: a stranger's in steps, and before there is a receiver only the handshake."""
        while self._unread and self._reason is None:
            if self._form.binding is not None and self._receiver is None:
                return
            size = len(self._unread) if self._allowance is None else _STEP
            step, self._unread = self._unread[:size], self._unread[size:]
            self._take(step)

    def _take(self, data: bytes) -> None:
        if self._allowance is not None:
            self._allowance -= len(data)
            if self._allowance < 0:
                self._lose("the peer sent more data than is allowed")
                return
        try:
            messages = self._form.receive(data)
        except ProtocolError as exc:
            self._flush()
            self._lose(exc.message)
            return
        self._flush()
        self._tell_open()
        for message in messages:
            self._deliver(message)
        if self._form.ended:
            self._end("closed by the peer")
        elif self._pipe is not None and self._pipe.get_write_buffer_size() > _QUEUE_MOST:
            self._lose("the peer does not read the answers that it requests")

    def _tell_open(self) -> None:
        if self._form.binding is None or self._opened.done():
            return
        self._opened.set_result(None)
        if self._receiver is None and self._pipe is not None:
            self._pipe.pause_reading()

    def _deliver(self, message: bytes) -> None:
        if self._receiver is None:
            self._early.append(message)
        elif self._reason is None:
            self._receiver.message_received(message)

    # -- sending, and the end

    def _flush(self) -> None:
        data = self._form.bytes_to_send()
        if data and self._pipe is not None:
            self._pipe.write(data)

    def _end(self, reason: str) -> None:
        """Close in order: send the close_notify after everything else."""
        if self._reason is None:
            self._form.close()
            self._flush()
            self._lose(reason)

    def _lose(self, reason: str) -> None:
        """End the channel. The first reason counts."""
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
        """Close our half, and wait a moment for the other one. Cutting the pipe now would lose what we have sent."""
        self._giving_up = self._loop.call_later(_DRAIN, pipe.abort)
        if not pipe.is_closing():
            pipe.resume_reading()
            with suppress(OSError):  # the loop has not seen a reset yet; it will call connection_lost
                pipe.write_eof()

    def _tell_closed(self) -> None:
        if self._receiver is not None and self._reason is not None:
            receiver, self._receiver = self._receiver, None
            receiver.channel_closed(self._reason)


class TlsChannel(PipeChannel):
    """A channel over TLS.

    ``server``: whether this is the TLS server, which is one of the two ends. ``welcome`` decides which certificates are
    accepted.
    """

    def __init__(
        self, identity: Identity, *, server: bool, path: Path, welcome: Welcome = anybody, address: str = ""
    ) -> None:
        super().__init__(Tls(identity, server=server, welcome=welcome), path=path, address=address)


def keep_unsent_short(transport: asyncio.BaseTransport) -> None:
    """Make the system accept no more than it can send soon, if it supports that (Linux, macOS)."""
    end = transport.get_extra_info("socket")
    if end is not None and hasattr(socket, "TCP_NOTSENT_LOWAT") and end.family != getattr(socket, "AF_UNIX", None):
        with suppress(OSError):  # macOS: the connection is reset already
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)


def _peer_address(transport: asyncio.BaseTransport) -> str:
    """Return the address of the other end; empty if it has none, as a Unix socket."""
    match transport.get_extra_info("peername"):
        case (str(host), int(port), *_):
            return netloc(host, port)
    return ""


def _why(exc: Exception | None) -> str:
    if exc is None:
        return "the connection was cut"
    return f"the connection broke: {getattr(exc, 'strerror', None) or exc}"
