"""One HTTP exchange on a session, as the endpoints see it. Both ends use the same class.

Everything that waits here raises `StreamReset` if the stream ends before it is complete, and `PeerLost` if the session
is lost. What arrived before the end is delivered first. One task may read and one may write at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from ..errors import ErrorCode, StreamReset, TunnelError
from ..protocol.heads import MAX_INTERIM, RequestHead, ResponseHead, cost
from ..protocol.hello import Features
from ..protocol.window import Budget

MAX_HEADS: Final = 16
"""Interim heads that may wait for the reader. They cost no credit."""

UNREAD: Final = "Too much of what the peer sent waits to be read."

SMALL: Final = 1024
"""Unread chunks shorter than this are joined. Many tiny chunks would take far more memory than their bytes of
credit."""


class Client:
    """Serve: one client connection of the proxy, shared by the streams of its requests and by nothing else."""

    __slots__ = ("__weakref__", "left", "on_left")

    def __init__(self, *, left: bool = False) -> None:
        self.left = left
        """Whether no further request will come: the client closes with this response, its connection or the session has
        ended, or the peer does not tell clients apart."""
        self.on_left: Callable[[], None] | None = None
        """Called when its connection or the session ends. The owner of something kept for its next request sets
        this."""

    def leave(self) -> None:
        """Note that the client's connection, or the session, has ended. Idempotent."""
        self.left = True
        if self.on_left:
            self.on_left()


class StreamOwner(Protocol):
    """What a stream needs from its session. No call may block."""

    peer: str
    budget: Budget

    @property
    def features(self) -> Features:
        """The features that the session agreed on."""

    def takes_head(self, stream: int) -> bool:
        """Return whether there is room for a head. If not, the stream's writer is woken when there is."""

    def send_response(self, stream: int, head: ResponseHead) -> None:
        """See `Stream.send_response`."""

    def send_data(self, stream: int, data: memoryview) -> int:
        """Send body bytes, and return how many were taken. The stream's writer is woken when more can be sent."""

    def send_end(self, stream: int) -> None:
        """See `Stream.send_end`."""

    def consumed(self, stream: int, size: int) -> None:
        """Note that the application consumed body bytes, so the peer may send more."""

    def reset(self, stream: int, code: ErrorCode, message: str) -> None:
        """See `Stream.reset`."""

    def close_client(self, client: int) -> None:
        """See `Stream.close_client`."""


class Stream:
    """An open stream of a session, made by `Session.open` or passed to serve's handler."""

    def __init__(self, session: StreamOwner, id: int, request: RequestHead, *, client: Client | None = None) -> None:
        self.id = id
        self.request = request
        """The request's head as received, or as sent."""
        self.client = client or Client(left=True)
        """Serve: the client whose request it is."""
        self._session = session
        self._heads: deque[ResponseHead] = deque()
        self._interim = 0
        """Interim heads that have arrived."""
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._sent_end = False
        self._error: TunnelError | None = None
        self._held = 0
        """Bytes that this stream takes of the peer's budget."""
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    @property
    def peer(self) -> str:
        """The short name of the other side."""
        return self._session.peer

    @property
    def session(self) -> StreamOwner:
        """The session that the stream belongs to."""
        return self._session

    @property
    def client_id(self) -> int:
        """The id of the first stream that the same client connection used on this session."""
        return self.request.client or self.id

    @property
    def features(self) -> Features:
        """The features that the session agreed on."""
        return self._session.features

    async def send_response(self, head: ResponseHead) -> None:
        """Serve: send the response's head, after any interim ones. Return when the outbox has taken it.

        Raises `ProtocolError` of code TOO_LARGE if it does not fit a frame. Then nothing was sent.
        """
        self._check()
        while not self._session.takes_head(self.id):  # heads cost no credit, so without a wait they would pile up
            await self._wait_writable()
            self._check()
        self._session.send_response(self.id, head)

    async def response(self) -> ResponseHead:
        """Proxy: return the response's head. Call this again after an interim one."""
        while not self._heads:
            self._check()
            await self._wait_readable()
        head = self._heads.popleft()
        self._let_go(cost(head))
        return head

    async def send(self, data: bytes) -> None:
        """Send body bytes of any length. Return when credit and outbox have taken them all."""
        view = memoryview(data)
        held = 0
        try:
            while view:
                self._check()
                view = view[self._session.send_data(self.id, view) :]
                if view:
                    if not held and self._hold(len(data), "The peer takes too little of what waits for it."):
                        held = len(data)
                    self._check()
                    await self._wait_writable()
        finally:
            self._let_go(held)

    async def send_end(self) -> None:
        """End our half: it is complete, and nothing more will be sent."""
        self._check()
        self._session.send_end(self.id)
        self._sent_end = True

    async def receive(self) -> bytes:
        """Return the body bytes that have arrived, at least one, or ``b""`` at a complete end.

        The peer may send as many again.
        """
        while not self._chunks:
            if self._ended:
                return b""
            self._check()
            await self._wait_readable()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._let_go(len(data))
        self._session.consumed(self.id, len(data))
        return data

    def reset(self, code: ErrorCode, message: str) -> None:
        """Abandon the stream. Idempotent; a stream that has finished ignores it."""
        self._session.reset(self.id, code, message)
        self.rx_ended(StreamReset(code, message, remote=False))
        self.free()

    def finish(self) -> None:
        """Serve: end the stream when its handler has ended. What is still open will not be answered, or not be read."""
        if self._sent_end:
            self.reset(ErrorCode.NO_ERROR, "The request's rest is not needed.")
        else:
            self.reset(ErrorCode.INTERNAL, "The request was not answered in full.")

    def close_client(self) -> None:
        """Proxy: note that the connection of the client that sent this request has closed."""
        self._session.close_client(self.client_id)

    # -- called by the session

    def admit(self) -> bool:
        """Serve: return whether there is room for the request's head, which counts as held until `free`."""
        size = cost(self.request)
        if not self._session.budget.take(size, new=True):
            return False
        self._held += size
        return True

    def free(self) -> None:
        """Release everything that it holds of the budget. It has ended, or will in a moment."""
        self._let_go(self._held)

    def rx_head(self, head: ResponseHead) -> None:
        """Accept a response's head."""
        if len(self._heads) == MAX_HEADS:
            self.reset(ErrorCode.FLOW_CONTROL, "The peer sends interim responses faster than they are read.")
            return
        self._interim += head.interim
        if self._interim > MAX_INTERIM:
            self.reset(ErrorCode.FLOW_CONTROL, f"The response has more than {MAX_INTERIM} interim heads.")
            return
        if self._hold(cost(head), UNREAD):
            self._heads.append(head)
            self._wake_reader()

    def rx_data(self, data: bytes) -> None:
        """Accept body bytes."""
        if not self._hold(len(data), UNREAD):
            return
        if self._chunks and len(self._chunks[-1]) < SMALL:
            self._chunks[-1] += data
        else:
            self._chunks.append(data)
        self._wake_reader()

    def rx_end(self) -> None:
        """Note the complete end of the peer's half."""
        self._ended = True
        self._wake_reader()

    def rx_ended(self, error: TunnelError) -> None:
        """End the stream. A response that has arrived completely stays readable."""
        if self._error is None:
            self._error = error
        self._wake_reader()
        self.wake_writer()

    def wake_writer(self) -> None:
        """Wake the writer: there is credit and room, or an error to raise."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # -- the peer's budget

    def _hold(self, size: int, problem: str) -> bool:
        """Count bytes as held for the peer. End the stream if they exceed the peer's budget."""
        if not self._session.budget.take(size):
            self.reset(ErrorCode.FLOW_CONTROL, problem)
            return False
        self._held += size
        return True

    def _let_go(self, size: int) -> None:
        size = min(size, self._held)  # after `free`, what is still read no longer counts
        self._held -= size
        self._session.budget.give(size)

    # -- waiting

    def _check(self) -> None:
        if self._error is not None:
            raise self._error.again()

    def _wake_reader(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    async def _wait_readable(self) -> None:
        self._readable = asyncio.get_running_loop().create_future()
        try:
            await self._readable
        finally:
            self._readable = None

    async def _wait_writable(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()
        try:
            await self._writable
        finally:
            self._writable = None
