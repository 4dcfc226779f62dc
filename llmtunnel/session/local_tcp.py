"""Ways by local TCP between peers that are connected already: serve announces where it listens, the proxy connects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from ..config import Settings
from ..errors import ConnectFailed
from ..paths import Path
from ..transport.base import Channel, Way
from ..transport.identity import Identity
from ..transport.tasks import ended, finish, report
from ..transport.tcp import Accept, TcpDialler, TcpListener

EXPECT: Final = 10.0
"""Seconds for which serve listens for a peer after the announcement. The peer may still be trying other addresses."""


class SharedListener:
    """Serve's listener for all its peers. It exists only while at least one peer is expected."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self._settings = settings
        self._identity = identity
        self._listener: TcpListener | None = None
        self._expected = 0
        self._starting = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def expect(self, fingerprint: bytes, accept: Accept) -> tuple[str, ...]:
        """Expect the peer with this certificate, and return the addresses where it may connect.

        Call `forget` once for each call.
        """
        self._expected += 1
        async with self._starting:
            if self._listener is None:
                timeouts, loopback = self._settings.timeouts, self._settings.loopback
                self._listener = TcpListener(self._identity, timeouts=timeouts, loopback=loopback)
                await self._listener.start()
            self._listener.expect(fingerprint, accept)
            return self._listener.addresses

    def forget(self, fingerprint: bytes, accept: Accept) -> None:
        """Withdraw one expectation. Stop listening if none is left."""
        self._expected -= 1
        if self._listener is None:
            return
        self._listener.forget(fingerprint, accept)
        if self._expected == 0:
            closing = asyncio.create_task(finish(self._listener.aclose), name="closing the local TCP listener")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            closing.add_done_callback(report)
            self._listener = None

    async def aclose(self) -> None:
        """Return when everything is closed and no peer is expected."""
        await finish(partial(ended, *self._closing))


class ListenWay(Way):
    """Serve's way: announce the addresses by ``tell``, and wait for the peer with this certificate."""

    name = "tcp"

    def __init__(
        self, listener: SharedListener, fingerprint: bytes, *, tell: Callable[[tuple[str, ...]], None]
    ) -> None:
        self._shared_listener = listener
        self._fingerprint = fingerprint
        self._tell = tell
        self._addresses: tuple[str, ...] | None = None
        """None until it listens."""
        self._came: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    async def open(self) -> Channel:
        """As `Way.open`."""
        try:
            self._addresses = await self._shared_listener.expect(self._fingerprint, self._accept)
            self._tell(self._addresses)  # an empty list too: then the peer need not wait
            if not self._addresses:
                raise ConnectFailed("This machine has no address that the other side could use.")
            async with asyncio.timeout(EXPECT):
                return await asyncio.shield(self._came)
        except TimeoutError as exc:
            raise ConnectFailed(f"Cannot reach the peer over {Path.TCP}: it did not connect.") from exc
        finally:
            self._shared_listener.forget(self._fingerprint, self._accept)

    def tell_again(self, tell: Callable[[tuple[str, ...]], None]) -> None:
        """Announce the addresses again on the session's new channel. The first announcement may have been lost."""
        self._tell = tell
        if self._addresses is not None:
            tell(self._addresses)

    async def aclose(self) -> None:
        """As `Way.aclose`."""
        if self._came.done():
            await self._came.result().aclose()

    def _accept(self, channel: Channel) -> None:
        self._came.set_result(channel)


class DialWay(Way):
    """The proxy's way: connect to the addresses that serve has announced."""

    name = "tcp"

    def __init__(self, dialler: TcpDialler, addresses: tuple[str, ...]) -> None:
        self._dialler = dialler
        self._addresses = addresses
        self._channel: Channel | None = None

    async def open(self) -> Channel:
        """As `Way.open`."""
        self._channel = await self._dialler.dial(self._addresses)
        return self._channel

    async def aclose(self) -> None:
        """As `Way.aclose`."""
        if self._channel is not None:
            await self._channel.aclose()
