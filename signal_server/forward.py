"""What instances of a server say to each other directly.

**An end of a pipe whose other end is at another instance** passes through here, to the instance that has the pipe.

A ticket names the instance at which the two ends of a pipe meet, and clients ask for it by their URL's path. Where the
load balancer does not look at that, an end comes to any instance. This one opens a WebSocket to the right one, and
passes messages on unchanged. The field `FIELD` of that WebSocket's request proves that an instance sends it, and says
which address the end has: the pipe's instance counts it there, and applies all limits.

**An instance that has lost Redis** asks the others at ``/readyz`` whether they have lost it too.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

import aiohttp
from aiohttp import WSCloseCode, WSMsgType

from .limits import PIPE_MESSAGE
from .relay import PROTOCOL, PipeSocket, keep_unsent_short
from .tasks import first_of

logger = logging.getLogger(__name__)

FIELD: Final = "LLMTunnel-Forwarded"
"""``address time mac``: the client's address, seconds since 1970, and an HMAC with the key that all instances share."""
CLOCKS: Final = 60.0
"""Seconds by which the clocks of two instances may differ."""
CONNECT: Final = 5.0
"""Seconds to connect to another instance."""


REACHED: Final = ", redis is reached"
"""What ``/readyz`` says of an instance that reaches Redis."""


class Unreachable(Exception):
    """The other instance cannot be reached, or refuses the end. ``status`` is for the client."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def proof(key: bytes, *, node: str, ticket: str, address: str) -> str:
    """Return the value of `FIELD` for an instance."""
    now = str(int(time.time()))
    return f"{address} {now} {_mac(key, node, ticket, address, now)}"


def proven_address(key: bytes, *, node: str, ticket: str, value: str) -> str | None:
    """Return the client's address in a `FIELD` that another instance has sent to this one; None if it has not."""
    address, now, mac, *more = [*value.split(" "), "", "", ""]
    if any(more) or not (now.isascii() and now.isdecimal() and len(now) < 12):
        return None
    true = hmac.compare_digest(mac.encode(), _mac(key, node, ticket, address, now).encode())
    return address if true and abs(time.time() - int(now)) <= CLOCKS else None


def _mac(key: bytes, *parts: str) -> str:
    return hmac.new(key, "\n".join(parts).encode(), hashlib.sha256).hexdigest()


@asynccontextmanager
async def connect(
    http: aiohttp.ClientSession, at: str, *, ticket: str, value: str
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Connect to another instance. ``at``: its ``host:port``. ``value``: of `FIELD`. Raises `Unreachable`."""
    try:
        async with asyncio.timeout(CONNECT):
            other = await http.ws_connect(
                f"ws://{at}/",
                protocols=(PROTOCOL, ticket),
                headers={FIELD: value},
                max_msg_size=PIPE_MESSAGE + 1,
                autoping=False,
                autoclose=False,
            )
    except aiohttp.WSServerHandshakeError as exc:
        raise Unreachable("refused", exc.status if exc.status in (403, 503) else 503) from exc
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        logger.warning("Cannot reach the instance at %s: %s", at, exc)
        raise Unreachable("the instance of this pipe cannot be reached", 503) from exc
    try:
        yield other
    finally:
        await other.close()


async def splice(
    client: PipeSocket, transport: asyncio.Transport, other: aiohttp.ClientWebSocketResponse, *, close: float
) -> None:
    """Pass messages on between a client and another instance until either closes; close both, within ``close`` s."""
    keep_unsent_short(transport)
    closes: list[tuple[int, bytes]] = []
    try:
        with suppress(ConnectionError):
            await first_of(_pump(client, other, closes), _pump(other, client, closes))
    finally:
        code, message = closes[0] if closes else (WSCloseCode.GOING_AWAY, b"the other end is gone")
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(close):
                await asyncio.gather(*(end.close(code=code, message=message) for end in (client, other)))
        transport.abort()


async def _pump(
    source: PipeSocket | aiohttp.ClientWebSocketResponse,
    target: PipeSocket | aiohttp.ClientWebSocketResponse,
    closes: list[tuple[int, bytes]],
) -> None:
    while True:
        raw = await source.receive()
        match raw.type:
            case WSMsgType.BINARY:
                await target.send_bytes(raw.data)
            case WSMsgType.PING:
                await source.pong(raw.data)
            case WSMsgType.PONG:
                pass
            case WSMsgType.CLOSE:
                closes.append((raw.data, (raw.extra or "").encode()))
                return
            case WSMsgType.TEXT:
                closes.append((WSCloseCode.UNSUPPORTED_DATA, b"a pipe takes binary messages only"))
                return
            case _:
                return


async def any_has_redis(http: aiohttp.ClientSession, addresses: Iterable[str]) -> bool:
    """Whether an instance at one of these addresses says that it reaches Redis."""
    return any(await asyncio.gather(*(_has_redis(http, at) for at in addresses)))


async def _has_redis(http: aiohttp.ClientSession, at: str) -> bool:
    try:
        async with asyncio.timeout(CONNECT), http.get(f"http://{at}/readyz", allow_redirects=False) as response:
            return response.status == 200 and REACHED in (await response.content.read(100)).decode("utf-8", "replace")
    except (aiohttp.ClientError, OSError, ValueError):
        return False
