"""One HTTP exchange on a session, as the endpoints see it: the same class at both ends.

Whatever waits here raises `StreamReset` where the stream ends before it is whole, and `PeerLost` where the session is
lost. What came before the end is delivered first. One task may read and one may write at a time.
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
"""Interim heads that may wait for the reader: they cost no credit."""

UNREAD: Final = "Too much of what the peer sent waits to be read."

SMALL: Final = 1024
"""Unread chunks shorter than this are joined: of tiny ones, credit would allow many times its bytes in memory."""


class Client:
    """Serve: one client connection of the proxy, shared by the streams of its requests and by nothing else."""

    __slots__ = ("__weakref__", "left", "on_left")

    def __init__(self, *, left: bool = False) -> None:
        self.left = left
        """No further request will come: the client closes with this response, its connection or the session has ended,
        or the peer does not tell clients apart."""
        self.on_left: Callable[[], None] | None = None
        """Called when its connection, or the session, ends; set by whoever keeps something for its next request."""

    def leave(self) -> None:
        """Its connection, or the session, has ended; idempotent."""
        self.left = True
        if self.on_left:
            self.on_left()


class StreamOwner(Protocol):
    """What a stream asks of the session that it belongs to. No call may block."""

    peer: str
    budget: Budget

    @property
    def features(self) -> Features:
        """What the session agreed on."""

    def takes_head(self, stream: int) -> bool:
        """Whether a head has room; where not, the stream's writer is woken when it has."""

    def send_response(self, stream: int, head: ResponseHead) -> None:
        """See `Stream.send_response`."""

    def send_data(self, stream: int, data: memoryview) -> int:
        """How many bytes were taken; the stream's writer is woken when more would be."""

    def send_end(self, stream: int) -> None:
        """See `Stream.send_end`."""

    def consumed(self, stream: int, size: int) -> None:
        """The application took body bytes: the peer may send more."""

    def reset(self, stream: int, code: ErrorCode, message: str) -> None:
        """See `Stream.reset`."""

    def close_client(self, client: int) -> None:
        """See `Stream.close_client`."""


class Stream:
    """An open stream of a session, made by `Session.open` or handed to serve's handler."""

    def __init__(self, session: StreamOwner, id: int, request: RequestHead, *, client: Client | None = None) -> None:
        self.id = id
        self.request = request
        """The head as received, or as sent."""
        self.client = client or Client(left=True)
        """Serve: whose request it is."""
        self._session = session
        self._heads: deque[ResponseHead] = deque()
        self._interim = 0
        """Interim heads that have come."""
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._sent_end = False
        self._error: TunnelError | None = None
        self._held = 0
        """Bytes that this stream holds of the peer's budget."""
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    @property
    def peer(self) -> str:
        """The other side's short name."""
        return self._session.peer

    @property
    def session(self) -> StreamOwner:
        """The session that it belongs to."""
        return self._session

    @property
    def client_id(self) -> int:
        """The id of the first stream that the same client connection used on this session."""
        return self.request.client or self.id

    @property
    def features(self) -> Features:
        """What the session agreed on."""
        return self._session.features

    async def send_response(self, head: ResponseHead) -> None:
        """Serve: send the response's head; interim ones may come first. Returns when the outbox has taken it.

        Raises `ProtocolError` of code TOO_LARGE where it does not fit a frame: then nothing was sent.
        """
        self._check()
        while not self._session.takes_head(self.id):  # heads cost no credit: without a wait they would pile up
            await self._wait_writable()
            self._check()
        self._session.send_response(self.id, head)

    async def response(self) -> ResponseHead:
        """Proxy: the response's head; call again after an interim one."""
        while not self._heads:
            self._check()
            await self._wait_readable()
        head = self._heads.popleft()
        self._let_go(cost(head))
        return head

    async def send(self, data: bytes) -> None:
        """Send body bytes of any length; returns when credit and outbox have taken them all."""
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
        """Our half is whole: nothing more will be sent."""
        self._check()
        self._session.send_end(self.id)
        self._sent_end = True

    async def receive(self) -> bytes:
        """The body bytes that have come, at least one, or ``b""`` at a whole end. The peer may send as many again."""
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
        """Give the stream up; idempotent, and nothing where it has finished."""
        self._session.reset(self.id, code, message)
        self.rx_ended(StreamReset(code, message, remote=False))
        self.free()

    def finish(self) -> None:
        """Serve, at the handler's end: what is still open will not be answered, or not be read."""
        if self._sent_end:
            self.reset(ErrorCode.NO_ERROR, "The request's rest is not needed.")
        else:
            self.reset(ErrorCode.INTERNAL, "The request was not answered in full.")

    def close_client(self) -> None:
        """Proxy: the connection of the client whose request this was has closed."""
        self._session.close_client(self.client_id)

    # -- called by the session

    def admit(self) -> bool:
        """Serve: whether there is room for the request's head, which is held until `free`."""
        size = cost(self.request)
        if not self._session.budget.take(size, new=True):
            return False
        self._held += size
        return True

    def free(self) -> None:
        """Nothing that it holds counts any more: it is over, or will be in a moment."""
        self._let_go(self._held)

    def rx_head(self, head: ResponseHead) -> None:
        """A response's head came."""
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
        """Body bytes came."""
        if not self._hold(len(data), UNREAD):
            return
        if self._chunks and len(self._chunks[-1]) < SMALL:
            self._chunks[-1] += data
        else:
            self._chunks.append(data)
        self._wake_reader()

    def rx_end(self) -> None:
        """The peer's half ended, whole."""
        self._ended = True
        self._wake_reader()

    def rx_ended(self, error: TunnelError) -> None:
        """The stream is gone; a response that has come whole stays readable."""
        if self._error is None:
            self._error = error
        self._wake_reader()
        self.wake_writer()

    def wake_writer(self) -> None:
        """There is credit, and room, or an error to raise."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # -- the peer's budget

    def _hold(self, size: int, problem: str) -> bool:
        """Count bytes as held for the peer; where they do not fit its budget, the stream ends."""
        if not self._session.budget.take(size):
            self.reset(ErrorCode.FLOW_CONTROL, problem)
            return False
        self._held += size
        return True

    def _let_go(self, size: int) -> None:
        size = min(size, self._held)  # after `free`, what is still read counts no more
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
