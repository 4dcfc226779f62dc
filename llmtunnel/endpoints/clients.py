"""The clients of one gateway: accepted, counted, and let go where there are too many. No HTTP.

Not by `asyncio.Server`: where descriptors run out, it logs a traceback for each client and stops for a second, and
uvloop's resets whoever waits. Here the limit leaves descriptors for the rest of the process. Beyond the limit, a client
gets the place of one that has been silent for a while, or an answer that says why not.
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
"""Descriptors for all else in the process, of which a proxy needs some 40 and a notebook's kernel as many, and for
`_TURNED_AWAY`. Where the limit is so low that this is more than half of it, clients have half."""
_TURNED_AWAY: Final = 64
"""Clients beyond the limit that read why they have no place."""
_TO_READ: Final = 1.0
"""Seconds that such a client has to send its request, read the answer and leave, while more of them wait."""
_SILENT: Final = 3.0
"""Seconds without a request after which a client may lose its place: a new one sends its request at once, or somewhat
later where it is a busy program that has just opened thousands."""
_STEP: Final = 32
"""Clients that are accepted without a look at what else there is to do: a millisecond or two."""
_RETRY: Final = 0.1
"""Seconds before another try where nothing can be accepted."""
_COMPLAIN: Final = 10.0
"""Seconds between two lines in the log about the same trouble."""
_READ_FIRST: Final = 0.2
"""Seconds for the request of a client that gets the spare descriptor: closing with unread bytes would be a reset."""
_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Clients:
    """Use `start`, then `aclose`. `take_place` and `silent` are for whoever serves a client."""

    def __init__(
        self, make: Callable[[], ClientConnection], *, busy: bytes, limits: Limits, timeouts: Timeouts
    ) -> None:
        """``make`` makes the protocol of one more client. ``busy``: the answer to one that cannot even be served."""
        self.sockets: list[socket.socket] = []
        """What listens."""
        self._make = make
        self._busy = busy
        self._limits = limits
        self._timeouts = timeouts
        self._open: set[ClientConnection] = set()
        self._silent: dict[ClientConnection, float] = {}
        """Those that have no request under way, and since when: the first is the longest."""
        self._placeless: dict[ClientConnection, float] = {}
        """Those that are told why they have no place, or have lost it, and since when."""
        self._opening: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()
        self._accepting: list[asyncio.Task[None]] = []
        self._spare: socket.socket | None = None
        """A descriptor to be given up for the answer to a client where there is no other."""
        self._complained: dict[str, float] = {}

    def start(self, sockets: list[socket.socket]) -> None:
        """Accept clients on these sockets, which listen; they are closed in the end."""
        self.sockets = sockets
        self._spare = _new_descriptor()
        self._accepting = [
            asyncio.create_task(self._accept_from(each), name="a listener of the gateway") for each in sockets
        ]
        for task in self._accepting:
            task.add_done_callback(report)

    async def stop_accepting(self) -> None:
        """Listen no more; idempotent."""
        spare = [self._spare] if self._spare else []
        await finish(
            partial(stop, *self._accepting, *self._opening),
            *(each.close for each in (*self.sockets, *spare)),
        )

    async def aclose(self) -> None:
        """Listen no more, and break off what is under way, so that clients see an error; idempotent."""
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
        """It is open."""
        self._open.add(client)

    def discard(self, client: ClientConnection) -> None:
        """It is gone."""
        self._open.discard(client)
        self._silent.pop(client, None)
        self._placeless.pop(client, None)
        self._gone.set()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[ClientConnection]:
        return iter(self._open)

    # -- called by whoever serves a client

    def take_place(self, client: ClientConnection) -> bool:
        """Whether the client has a place, be it that of one that was silent."""
        if len(self._open) - len(self._placeless) <= self._most or self._evict(_SILENT):
            return True
        self._placeless[client] = asyncio.get_running_loop().time()
        self._complain(f"All {self._most} places for clients are in use. Further clients get 503.")
        return False

    def has_lost_place(self, client: ClientConnection) -> bool:
        """Whether another client has got its place."""
        return client in self._placeless

    @contextmanager
    def silent(self, client: ClientConnection) -> Iterator[None]:
        """The client has no request under way in this block; it is interrupted where another one needs its place."""
        self._silent[client] = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._silent.pop(client, None)

    # -- places

    @property
    def _most(self) -> int:
        """How many clients may have a place, by the limit of the moment: a program may raise it at any time."""
        try:
            import resource
        except ImportError:  # Windows, whose limit does not concern sockets
            return self._limits.clients
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if descriptors == resource.RLIM_INFINITY:
            return self._limits.clients
        return min(self._limits.clients, max(descriptors - _RESERVED, descriptors // 2))

    def _evict(self, silence: float) -> bool:
        """Let go of the client that has been silent for the longest, if for ``silence`` seconds; whether there is one.

        One whose request has just come is not it.
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
            if not isinstance(exc, OSError):  # it has left
                raise

    async def _room(self) -> None:
        """Return when one more may be accepted, if only to be told that there is no place."""
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
        if exc.errno not in _SHORTAGE:  # the client left before it was accepted, as a rule
            logger.debug("a client was not accepted: %s", exc)
            await asyncio.sleep(0 if isinstance(exc, ConnectionError) else _RETRY)
            return
        self._complain(
            f"The proxy cannot accept more clients: {os.strerror(exc.errno)}. Raise the limit of open files"
            " (ulimit -n), or use fewer connections at once."
        )
        if self._spare is None:  # whatever else runs in this process has taken it
            await asyncio.sleep(_RETRY)
        else:
            self._spare.close()
            self._spare = None

    def _has_descriptors(self) -> bool:
        """A client has got the spare descriptor: whether there is another one by now, or there will be."""
        self._spare = _new_descriptor()
        return self._spare is not None or self._evict(0.0)

    async def _answer_busy(self, raw: socket.socket) -> None:
        """Tell a client that it cannot stay, before anything of it is served."""
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
