"""The clients of one gateway: accepted, counted, and evicted if there are too many. No HTTP.

`asyncio.Server` cannot be used. If descriptors run out, it logs a traceback for each client and stops for a second, and
uvloop's server resets waiting clients. The limit here leaves descriptors for the rest of the process. Beyond the limit,
a client replaces one that has been silent for a while, or gets a response that says why it cannot stay.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from ..config import Limits, Timeouts
from ..transport.tasks import finish, report, stop
from .client_connection import ClientConnection

logger = logging.getLogger(__name__)

_RESERVED: Final = 192
"""Descriptors for the rest of the process and for `_TURNED_AWAY`. A proxy needs about 40, and a notebook's kernel as
many. If that is more than half of a low limit, clients get half of the limit."""
_TURNED_AWAY: Final = 64
"""Maximum number of clients beyond the limit that get a response about it."""
_TO_READ: Final = 1.0
"""Seconds for such a client to send its request, read the response and disconnect, while more of them wait."""
_SILENT: Final = 3.0
"""Seconds without a request after which a client can be evicted. A new client sends its request at once, or a little
later if it is a busy program that has just opened thousands."""
_STEP: Final = 32
"""Clients to accept without a pause for other work: a millisecond or two."""
_RETRY: Final = 0.1
"""Seconds before another attempt if nothing can be accepted."""
_COMPLAIN: Final = 10.0
"""Seconds between two log lines about the same problem."""
_READ_FIRST: Final = 0.2
"""Seconds for the request of a client that gets the spare descriptor: closing with unread bytes would be a reset."""
_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Clients:
    """The clients. Call `start`, then `aclose`. `take_place` and `silent` are for the code that serves a client."""

    def __init__(
        self, make: Callable[[], ClientConnection], *, busy: bytes, limits: Limits, timeouts: Timeouts
    ) -> None:
        """``make`` makes the protocol of a new client. ``busy``: response for one that cannot even be served."""
        self.sockets: list[socket.socket] = []
        """The listening sockets."""
        self._make = make
        self._busy = busy
        self._limits = limits
        self._timeouts = timeouts
        self._open: set[ClientConnection] = set()
        self._silent: dict[ClientConnection, float] = {}
        """Clients without a running request, with the time when that began; the longest-silent one comes first."""
        self._placeless: dict[ClientConnection, float] = {}
        """Evicted and rejected clients that still get a response, and since when."""
        self._opening: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()
        self._accepting: list[asyncio.Task[None]] = []
        self._spare: socket.socket | None = None
        """A spare descriptor, to be closed so that a client can get a response when none is left."""
        self._complained: dict[str, float] = {}

    def start(self, sockets: list[socket.socket]) -> None:
        """Accept clients on these listening sockets, which are closed at the end."""
        self.sockets = sockets
        self._spare = _new_descriptor()
        self._accepting = [
            asyncio.create_task(self._accept_from(each), name="a listener of the gateway") for each in sockets
        ]
        for task in self._accepting:
            task.add_done_callback(report)

    async def stop_accepting(self) -> None:
        """Stop listening. Idempotent."""
        spare = [self._spare] if self._spare else []
        await finish(
            partial(stop, *self._accepting, *self._opening),
            *(each.close for each in (*self.sockets, *spare)),
        )

    async def aclose(self) -> None:
        """Stop listening, and abort running requests, so that clients see an error. Idempotent."""
        await finish(self.stop_accepting, self._break_off, self._cut_off)

    async def _break_off(self) -> None:
        for client in list(self._open):
            client.task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeouts.close):
                await _gone(list(self._open))

    async def _cut_off(self) -> None:
        clients = list(self._open)
        await finish(*(client.abort for client in clients))
        await _gone(clients)

    # -- called by each client's connection

    def add(self, client: ClientConnection) -> None:
        """Add an open connection."""
        self._open.add(client)

    def discard(self, client: ClientConnection) -> None:
        """Remove a closed connection."""
        self._open.discard(client)
        self._silent.pop(client, None)
        self._placeless.pop(client, None)
        self._gone.set()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[ClientConnection]:
        return iter(self._open)

    # -- called by the code that serves a client

    def take_place(self, client: ClientConnection) -> bool:
        """Return whether the client has a place, if necessary that of a silent one."""
        if len(self._open) - len(self._placeless) <= self._most or self._evict(_SILENT):
            return True
        self._placeless[client] = asyncio.get_running_loop().time()
        self._complain(f"All {self._most} places for clients are in use. Further clients get 503.")
        return False

    def has_lost_place(self, client: ClientConnection) -> bool:
        """Whether another client has taken its place."""
        return client in self._placeless

    @contextmanager
    def silent(self, client: ClientConnection) -> Iterator[None]:
        """Mark the client as silent within the context. It is interrupted if another client needs its place."""
        self._silent[client] = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._silent.pop(client, None)

    # -- places

    @property
    def _most(self) -> int:
        """Current maximum number of clients. It depends on a limit that a program may raise at any time."""
        try:
            import resource
        except ImportError:  # Windows, whose limit does not apply to sockets
            return self._limits.clients
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if descriptors == resource.RLIM_INFINITY:
            return self._limits.clients
        return min(self._limits.clients, max(descriptors - _RESERVED, descriptors // 2))

    def _evict(self, silence: float) -> bool:
        """Evict the client that has been silent longest, if for ``silence`` seconds. Returns whether there was one.

        A client whose request has just arrived is not evicted.
        """
        now = asyncio.get_running_loop().time()
        for client, since in self._silent.items():
            if since > now - silence:
                return False
            if not client.has_unread:
                self._silent.pop(client)
                self._placeless[client] = now
                client.interrupt()
                return True
        return False

    # -- accepting

    async def _accept_from(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        accepted = 0
        while True:
            await self._room()
            try:
                raw, _ = await loop.sock_accept(listening)
            except OSError as exc:
                await self._cannot_accept(exc)
                continue
            if self._spare is None and not self._has_descriptors():
                await self._answer_busy(raw)
                continue
            opening = loop.create_task(self._begin(raw), name="a client of the gateway, accepted")
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)
            opening.add_done_callback(report)
            accepted += 1
            if accepted % _STEP == 0:
                await asyncio.sleep(0)

    async def _begin(self, raw: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, raw)
        except BaseException as exc:
            raw.close()
            if not isinstance(exc, OSError):  # the client has disconnected
                raise

    async def _room(self) -> None:
        """Wait until one more client may be accepted, even if only to be rejected."""
        while len(self._open) + len(self._opening) >= self._most + min(_TURNED_AWAY, max(4, self._most // 4)):
            now = asyncio.get_running_loop().time()
            for client, since in list(self._placeless.items()):
                if since <= now - 2 * _TO_READ:
                    client.abort()
                elif since <= now - _TO_READ:
                    client.close()
            await self._one_has_gone()

    async def _one_has_gone(self) -> None:
        self._gone.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_RETRY):
                await self._gone.wait()

    async def _cannot_accept(self, exc: OSError) -> None:
        if exc.errno not in _SHORTAGE:  # usually, the client disconnected before it was accepted
            logger.debug("A client was not accepted: %s", exc)
            await asyncio.sleep(0 if isinstance(exc, ConnectionError) else _RETRY)
            return
        self._complain(
            f"The proxy cannot accept more clients: {os.strerror(exc.errno)}. Raise the limit of open files"
            " (ulimit -n), or use fewer connections at once."
        )
        if self._spare is None:  # another part of this process has taken it
            await asyncio.sleep(_RETRY)
        else:
            self._spare.close()
            self._spare = None

    def _has_descriptors(self) -> bool:
        """Return whether a spare descriptor exists again, or will exist, after a client has used the last one."""
        self._spare = _new_descriptor()
        return self._spare is not None or self._evict(0.0)

    async def _answer_busy(self, raw: socket.socket) -> None:
        """Send a client the response that it cannot stay, without serving it."""
        loop = asyncio.get_running_loop()
        with raw, suppress(OSError, TimeoutError):
            with suppress(TimeoutError):
                async with asyncio.timeout(_READ_FIRST):
                    await loop.sock_recv(raw, self._limits.read_ahead)
            async with asyncio.timeout(_READ_FIRST):
                await loop.sock_sendall(raw, self._busy)
        self._spare = _new_descriptor()

    def _complain(self, trouble: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._complained.get(trouble, -_COMPLAIN) >= _COMPLAIN:
            self._complained[trouble] = now
            logger.warning(trouble)


def _new_descriptor() -> socket.socket | None:
    try:
        return socket.socket()
    except OSError:
        return None


async def _gone(clients: list[ClientConnection]) -> None:
    await asyncio.gather(*(client.task for client in clients), return_exceptions=True)
    for client in clients:
        await client.lost.wait()
