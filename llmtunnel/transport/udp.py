"""A UDP socket on the loop: many datagrams in one system call where the kernel can, one at a time elsewhere.

The transports of asyncio and uvloop need a system call for each datagram, and asyncio's a turn of the loop for each
that arrives. Linux cuts one long buffer into datagrams of equal size (UDP_SEGMENT), and joins what one sender sent
(UDP_GRO); see udp(7). A kernel may lack either, and a network device may refuse the first. Then each datagram is sent
on its own, which is correct everywhere, only slower.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections import deque
from contextlib import suppress
from struct import Struct
from typing import Any, Final, Protocol

_log = logging.getLogger(__name__)

_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
"""Linux's options, which Python's `socket` does not name (linux/udp.h)."""
_SEGMENT: Final = Struct("@H")
_JOINED: Final = Struct("@i")
"""The content of their control messages: the bytes of a datagram."""
_MOST_SEGMENTS: Final = 64
"""Datagrams in one system call (UDP_MAX_SEGMENTS; newer kernels permit 128)."""
_MOST_BYTES: Final = 65_000
"""The same in bytes. All together must fit into an IP packet, with headers and perhaps options."""
_REFUSED: Final = frozenset({errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP})
"""Errors of a device, a route or a kernel that cannot cut a buffer into datagrams."""
_BUFFER: Final = 1 << 16
"""Bytes that one read returns: no datagram, and no row of joined ones, is longer."""
_CONTROL: Final = 64
"""Bytes of control messages that one read returns: room for the only one that we ask for, and for a timestamp."""
_RECEIVE_BUFFER: Final = 256 * 1024
"""Bytes that may wait in the kernel. aioice requests as many."""
_TURN: Final = 128 * 1024
"""Bytes to read in one turn of the loop, before others get theirs and acknowledgements are sent: all that is in flight
on one machine (`congestion.NEAR_WINDOW`)."""
_TURN_READS: Final = 32
"""The same in system calls."""
_ACKNOWLEDGES: Final = 120
"""Bytes up to which a datagram probably only acknowledges. A browser sends many of these: one for every two packets."""
_FULL: Final = 1000
"""Bytes from which on a datagram is probably one of many."""
_QUEUE: Final = 256 * 1024
"""Bytes that may wait while the socket's own buffer is full. The rest is lost, as in any other full queue."""

Address = tuple[Any, ...]


class Receiver(Protocol):
    """The user of the socket. None of these may raise."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note that the socket is open."""

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Accept a datagram."""

    def datagrams_received(self, data: bytes, size: int, addr: Address) -> None:
        """Accept several datagrams of one sender, of ``size`` bytes each. The last may be shorter."""

    def error_received(self, exc: Exception) -> None:
        """Note that a datagram was not sent, or that the system reports an earlier one as undeliverable."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the socket is closed."""


class UdpTransport(asyncio.DatagramTransport):
    """A bound socket. Raises `NotImplementedError` where it cannot work: on Windows, or on a loop without readers."""

    def __init__(self, loop: asyncio.AbstractEventLoop, own: socket.socket, receiver: Receiver) -> None:
        super().__init__({"socket": own, "sockname": own.getsockname()})
        if sys.platform == "win32":
            raise NotImplementedError
        self._loop = loop
        self._socket = own
        self._receiver = receiver
        self._waiting: deque[tuple[bytes, int, Address]] = deque()
        self._waiting_size = 0
        self._closing = False
        loop.add_reader(own.fileno(), self._read)  # first, since it is what may be missing
        self._cuts = _has_option(own, _UDP_SEGMENT, 1200, after=0)
        """Whether one system call may send several datagrams."""
        _has_option(own, _UDP_GRO, 1, after=1)
        receiver.connection_made(self)

    # -- sending

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send a datagram. It may be lost. See `asyncio.DatagramTransport.sendto`."""
        self._send(data, len(data), addr)

    def send_all(self, data: bytes, size: int, addr: Address) -> None:
        """Send ``data`` as datagrams of ``size`` bytes each. The last may be shorter. Each of them may be lost."""
        most = size * max(1, min(_MOST_SEGMENTS, _MOST_BYTES // size))
        for at in range(0, len(data), most):
            self._send(data[at : at + most], size, addr)

    def _send(self, data: bytes, size: int, addr: Address) -> None:
        if self._closing:
            return
        if not self._waiting:
            data = self._try(data, size, addr)
            if not data:
                return
            self._loop.add_writer(self._socket.fileno(), self._write)
        if self._waiting_size + len(data) <= _QUEUE:
            self._waiting.append((data, size, addr))
            self._waiting_size += len(data)

    def _try(self, data: bytes, size: int, addr: Address) -> bytes:
        """Send what the socket has room for, and return the rest."""
        refused: OSError | None = None
        if self._cuts and len(data) > size:
            try:
                self._socket.sendmsg((data,), ((socket.IPPROTO_UDP, _UDP_SEGMENT, _SEGMENT.pack(size)),), 0, addr)
                return b""
            except (BlockingIOError, InterruptedError):
                return data
            except OSError as exc:
                refused = exc
        is_well = True
        for at in range(0, len(data), size or 1):
            try:
                self._socket.sendto(data[at : at + size], addr)
            except (BlockingIOError, InterruptedError):
                return data[at:]
            except OSError as exc:
                is_well = False
                self._receiver.error_received(exc)
        if refused is not None and is_well and refused.errno in _REFUSED:
            _log.debug("Datagrams are sent one by one from now on: %r", refused)
            self._cuts = False
        return b""

    def _write(self) -> None:
        """Send what waits."""
        while self._waiting:
            data, size, addr = self._waiting.popleft()
            rest = self._try(data, size, addr)
            self._waiting_size -= len(data) - len(rest)
            if rest:
                self._waiting.appendleft((rest, size, addr))
                return
        self._loop.remove_writer(self._socket.fileno())

    # -- receiving

    def _read(self) -> None:
        received = 0
        for _ in range(_TURN_READS):
            try:
                data, control, flags, addr = self._socket.recvmsg(_BUFFER, _CONTROL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._receiver.error_received(exc)
                return
            size = _size_of(control, len(data)) if control else len(data)
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                _log.debug("Part of a message was cut off: %d bytes lost", len(data))
            elif size < len(data):
                self._receiver.datagrams_received(data, size, addr)
            else:
                self._receiver.datagram_received(data, addr)
            received += len(data)
            # To find nothing costs three times as much as to find something, so look only where more is likely. If
            # more has arrived nevertheless, the loop calls again, after what this datagram has caused.
            if _ACKNOWLEDGES < len(data) < _FULL or received >= _TURN or self._closing:
                return

    # -- the end

    def get_write_buffer_size(self) -> int:
        """See `asyncio.WriteTransport.get_write_buffer_size`."""
        return self._waiting_size

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport.is_closing`."""
        return self._closing

    def close(self) -> None:
        """Close the socket. What waits is lost. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._waiting.clear()
        self._waiting_size = 0
        self._loop.call_soon(self._close)

    def abort(self) -> None:
        """See `close`."""
        self.close()

    def _close(self) -> None:
        self._socket.close()
        self._receiver.connection_lost(None)


async def bind(host: str, receiver: Any) -> None:
    """Bind a socket to a free port of an address of this machine.

    ``receiver`` is a `Receiver` and an `asyncio.DatagramProtocol`, and gets its transport: a `UdpTransport`, or the
    loop's own where that cannot work. Raises `OSError` if the address cannot be bound.
    """
    loop = asyncio.get_running_loop()
    own = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        own.setblocking(False)
        own.bind((host, 0))
        try:
            UdpTransport(loop, own, receiver)
        except NotImplementedError:
            await loop.create_datagram_endpoint(lambda: receiver, sock=own)
    except BaseException:
        own.close()
        raise


def _has_option(own: socket.socket, option: int, value: int, *, after: int) -> bool:
    """Set one of the two options to ``after``, and return whether the kernel knows it.

    Some systems accept an option that they do not know, and ignore it. So it must also be possible to read it.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError):
        own.setsockopt(socket.IPPROTO_UDP, option, value)
        known = own.getsockopt(socket.IPPROTO_UDP, option) == value
        own.setsockopt(socket.IPPROTO_UDP, option, after)
        return known
    return False


def _size_of(control: list[tuple[int, int, bytes]], length: int) -> int:
    """Return the size of the datagrams that were joined, or ``length`` if there is only one."""
    for level, kind, content in control:
        if level == socket.IPPROTO_UDP and kind == _UDP_GRO and len(content) >= _JOINED.size:
            size: int = _JOINED.unpack_from(content)[0]
            return size if size > 0 else length
    return length
