"""Sessions over the memory channel that lose their channel, or change it while it works."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llmtunnel.config import KIB, MIB, Limits, Timeouts
from llmtunnel.errors import PeerLost, TunnelError
from llmtunnel.protocol.greeting import Greeting
from llmtunnel.protocol.handshake import Agreement
from llmtunnel.session.carrier import Carrier
from llmtunnel.session.life import Change, Resumed
from llmtunnel.session.mux import Session
from llmtunnel.session.stream import Stream
from llmtunnel.status import Role
from llmtunnel.transport.memory import MemoryChannel, linked_pair
from tests.conftest import VirtualTime

from ..support.embedded import until
from ..support.session_pair import GET, OK, POST, echo, exchange, read_all

QUICK = Timeouts(ping_busy=0.05, dead_busy=0.15, ping_idle=0.1, dead_idle=0.3)
CERTIFICATE = {Role.PROXY: b"serve's", Role.SERVE: b"proxy's"}
"""What each sees of the other."""


class Network:
    """A proxy's and a serve's session, and channels between them: `connect` for the first and for each further one."""

    def __init__(self, *, limits: Limits | None = None, resume_for: float = 20.0, splits: bool = False) -> None:
        self._limits = limits
        self._resume_for = resume_for
        self.splits = splits
        """Whether the next channel has a pipe for each lane."""
        self.sessions: dict[Role, Session] = {}
        self.told: list[str] = []
        self.gap = 0.0
        """The longest, seconds."""
        self.channel: MemoryChannel

    @property
    def proxy(self) -> Session:
        return self.sessions[Role.PROXY]

    @property
    def serve(self) -> Session:
        return self.sessions[Role.SERVE]

    async def connect(self) -> None:
        """A channel more, until both have gone over to it."""
        left, right = linked_pair(delay=0.002, splits=self.splits)
        agreed = {role: asyncio.get_running_loop().create_future() for role in Role}
        for role, channel in ((Role.PROXY, left), (Role.SERVE, right)):

            def take(carrier: Carrier, agreement: Agreement, role: Role = role) -> None:
                self._take(role, carrier, agreement)
                agreed[role].set_result(None)

            Carrier(channel, self._greeting(role), agreed=take).start()
        await asyncio.gather(*agreed.values())
        self.channel = left

    def _greeting(self, role: Role) -> Greeting:
        line = self.sessions[role].line if role in self.sessions else None
        return Greeting(
            role,
            now=asyncio.get_running_loop().time(),
            limits=self._limits,
            certificate=CERTIFICATE[role],
            resume=line.offer(CERTIFICATE[role]) if line and role is Role.PROXY else None,
            resumable=line.answer if line else lambda claim: None,
        )

    def _take(self, role: Role, carrier: Carrier, agreement: Agreement) -> None:
        if agreement.received is not None:
            self.sessions[role].resume(agreement, carrier)
            return
        self.sessions[role] = Session(
            role,
            agreement,
            carrier,
            peer=str(role.other),
            handler=echo,
            limits=self._limits,
            timeouts=QUICK,
            resume_for=self._resume_for,
            owner=self,
        )

    def session_changed(self, session: Session, change: Change) -> None:
        self.told.append(f"{session.role} {type(change).__name__.lower()}")
        if isinstance(change, Resumed):
            self.gap = max(self.gap, change.gap)

    def session_ended(self, session: Session, error: TunnelError) -> None:
        self.told.append(f"{session.role} ended")


@asynccontextmanager
async def network(
    *, limits: Limits | None = None, resume_for: float = 20.0, splits: bool = False
) -> AsyncIterator[Network]:
    made = Network(limits=limits, resume_for=resume_for, splits=splits)
    await made.connect()
    try:
        yield made
    finally:
        await asyncio.gather(made.proxy.aclose(), made.serve.aclose())


@pytest.mark.parametrize("how", ["cut", "kill"])
@pytest.mark.parametrize("pipes", ["one", "many", "many and one"])
@pytest.mark.usefixtures("in_virtual_time")
async def test_streams_both_ways_go_on_over_the_next_channel(how: str, pipes: str) -> None:
    async with network(splits=pipes != "one") as net:
        bodies = [random.randbytes(3 * MIB // 10) for _ in range(10)]
        exchanging = [asyncio.create_task(exchange(net.proxy, body), name="exchange") for body in bodies]
        for _ in range(3):
            await asyncio.sleep(0.01)
            getattr(net.channel, how)()
            await until(lambda: net.proxy.suspended and net.serve.suspended)
            net.splits = not net.splits if pipes == "many and one" else net.splits
            await net.connect()
        assert await asyncio.gather(*exchanging) == bodies
        assert net.told.count("proxy suspended") == net.told.count("proxy resumed") == 3


@pytest.mark.usefixtures("in_virtual_time")
async def test_an_upgrade_that_speaks_both_ways_loses_and_doubles_no_byte() -> None:
    async with network() as net:
        stream = await net.proxy.open(POST)
        await stream.response()
        said, heard = b"", b""
        for number in range(60):
            word = b"word %d;" % number
            said += word
            await stream.send(word)
            if number % 20 == 10:
                net.channel.kill()
                await until(lambda: net.proxy.suspended and net.serve.suspended)
                await net.connect()
        while len(heard) < len(said):
            heard += await stream.receive()
        assert heard == said


@pytest.mark.parametrize("splits", [False, True])
@pytest.mark.usefixtures("in_virtual_time")
async def test_a_switch_under_load_is_no_pause(splits: bool) -> None:
    async with network(splits=splits) as net:
        bodies = [random.randbytes(MIB) for _ in range(5)]
        exchanging = [asyncio.create_task(exchange(net.proxy, body), name="exchange") for body in bodies]
        for _ in range(5):
            await asyncio.sleep(0.01)
            old = net.channel
            await net.connect()
            assert old is not net.channel
        assert await asyncio.gather(*exchanging) == bodies
        assert not [told for told in net.told if "suspended" in told]


@pytest.mark.usefixtures("in_virtual_time")
async def test_a_channel_that_was_only_silent_is_good_enough() -> None:
    async with network() as net:
        stream = await net.proxy.open(POST)
        await stream.response()
        net.channel.cut()
        await stream.send(b"kept on the way")
        await until(lambda: net.proxy.suspended)
        net.channel.mend()
        assert await stream.receive() == b"kept on the way"
        assert not net.proxy.suspended


@pytest.mark.usefixtures("in_virtual_time")
async def test_who_was_stopped_tells_for_how_long_nothing_was_heard() -> None:
    async with network() as net:
        stream = await net.proxy.open(POST)
        await stream.response()
        await stream.send(b"sent before")
        await until(lambda: net.channel.far.travelling)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTime)
        loop.now += 2.0  # as in a process that is stopped
        assert await stream.receive() == b"sent before"
        assert "proxy suspended" not in net.told
        assert net.told.count("proxy resumed") == 1
        assert net.gap >= 2.0


@pytest.mark.usefixtures("in_virtual_time")
async def test_past_resume_for_every_stream_ends_loudly() -> None:
    async with network(resume_for=0.2) as net:
        stream = await net.proxy.open(POST)
        await stream.response()
        net.channel.kill()
        with pytest.raises(PeerLost, match=r"0\.2 s"):
            await stream.receive()
        with pytest.raises(PeerLost):
            await net.proxy.open(GET)
        await until(lambda: net.serve.error is not None)
        assert net.told.count("proxy ended") == net.told.count("serve ended") == 1


@pytest.mark.usefixtures("in_virtual_time")
async def test_a_full_journal_holds_a_sender_back_while_there_is_no_channel() -> None:
    taken = 0

    async with network(limits=Limits(journal=256 * KIB, window=100 * MIB)) as net:
        body = random.randbytes(2 * MIB)
        stream = await net.proxy.open(POST)

        async def send() -> None:
            nonlocal taken
            for start in range(0, len(body), 10_000):
                await stream.send(body[start : start + 10_000])
                taken += 10_000
            await stream.send_end()

        net.channel.cut()
        sending = asyncio.create_task(send(), name="sender")
        await until(lambda: net.proxy.suspended and net.serve.suspended)
        assert 0 < taken <= 256 * KIB + 64 * KIB
        assert not sending.done()
        await net.connect()
        assert await read_all_of(stream) == body
        await sending


async def read_all_of(stream: Stream) -> bytes:
    assert (await stream.response()).status == OK.status
    return await read_all(stream)
