"""Two sessions over the memory channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from llmtunnel.config import Limits, Timeouts
from llmtunnel.errors import TunnelError
from llmtunnel.protocol.greeting import Greeting
from llmtunnel.protocol.handshake import Agreement, Credentials
from llmtunnel.protocol.heads import RequestHead, ResponseHead
from llmtunnel.protocol.hello import ALL_FEATURES, Features
from llmtunnel.session.carrier import Carrier
from llmtunnel.session.handlers import Handler
from llmtunnel.session.mux import Session
from llmtunnel.session.stream import Stream
from llmtunnel.status import Role
from llmtunnel.transport.base import Channel
from llmtunnel.transport.memory import MemoryChannel, linked_pair

from .embedded import until

GET = RequestHead(method=b"GET", target=b"/")
POST = RequestHead(method=b"POST", target=b"/")
OK = ResponseHead(status=200, reason=b"OK")


@dataclass
class Pair:
    """Both ends, and the network between them."""

    proxy: Session
    serve: Session
    network: MemoryChannel


async def start(
    channel: Channel,
    role: Role,
    *,
    handler: Handler | None = None,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    features: Features = ALL_FEATURES,
    credentials: Credentials | None = None,
    makes: Callable[..., Greeting] | None = None,
) -> Session:
    """One side's session, once there is an agreement; raises what there is instead.

    ``makes``: makes the greeting, if that is not the usual one.
    """
    loop = asyncio.get_running_loop()
    greeting = (makes or partial(Greeting, role))(
        now=loop.time(),
        limits=limits,
        timeouts=timeouts,
        features=features,
        credentials=credentials,
        certificate=channel.binding.certificate if channel.binding else b"",
        needs_key=role is Role.SERVE and channel.binding is not None and not channel.binding.certified,
    )
    made: asyncio.Future[Session] = loop.create_future()

    def begin(carrier: Carrier, agreement: Agreement) -> None:
        peer = str(role.other)
        made.set_result(Session(role, agreement, carrier, peer=peer, handler=handler, limits=limits, timeouts=timeouts))

    carrier = Carrier(channel, greeting, agreed=begin)
    carrier.start()
    over = asyncio.ensure_future(carrier.wait_over())
    try:
        await asyncio.wait((made, over), return_when=asyncio.FIRST_COMPLETED)
        if made.done():
            return made.result()
        raise over.result()
    finally:
        over.cancel()
        if not made.done():
            await carrier.aclose()


@asynccontextmanager
async def linked(
    handler: Handler,
    *,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    features: Features = ALL_FEATURES,
    room: int = 256 * 1024,
    delay: float = 0.0,
    splits: bool = False,
) -> AsyncIterator[Pair]:
    """Two sessions that have said hello; closed at the end, and then nothing of them is left."""
    left, right = linked_pair(room=room, delay=delay, splits=splits)
    proxy, serve = await asyncio.gather(
        start(left, Role.PROXY, limits=limits, timeouts=timeouts, features=features),
        start(right, Role.SERVE, handler=handler, limits=limits, timeouts=timeouts),
    )
    try:
        yield Pair(proxy, serve, left)
    finally:
        await asyncio.gather(proxy.aclose(), serve.aclose())
        for session in (proxy, serve):
            assert session.error is not None
            assert session.active == 0
            assert session._alarm._handle is None
            assert not handling(session)


def handling(session: Session) -> int:
    """How many requests serve works on, those included whose streams are over."""
    return len(session._handlers._tasks)


async def echo(stream: Stream) -> None:
    """Answer with the request's body, as it comes."""
    await stream.send_response(OK)
    while data := await stream.receive():
        await stream.send(data)
    await stream.send_end()


async def read_all(stream: Stream) -> bytes:
    """The rest of a body, whole."""
    parts = []
    while data := await stream.receive():
        parts.append(data)
    return b"".join(parts)


async def exchange(session: Session, body: bytes = b"hello") -> bytes:
    """One whole exchange with `echo`."""
    stream = await session.open(POST)
    sending = asyncio.create_task(_send_all(stream, body), name="sender")
    assert (await stream.response()).status == 200
    answer = await read_all(stream)
    await sending
    return answer


async def _send_all(stream: Stream, body: bytes) -> None:
    await stream.send(body)
    await stream.send_end()


async def over(session: Session) -> TunnelError:
    """Why the session ended, once it has."""
    await until(lambda: session.error is not None)
    assert session.error is not None
    return session.error
