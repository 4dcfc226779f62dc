from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path as FilePath
from uuid import uuid4

import aioice
import pytest
from aioice import stun
from aiortc import RTCIceGatherer, RTCIceParameters, RTCIceTransport

from llmtunnel.bucket import Bucket
from llmtunnel.config import IceServers, Timeouts
from llmtunnel.errors import ConnectFailed
from llmtunnel.paths import Path
from llmtunnel.transport import ice
from llmtunnel.transport.ice import IceAgent, parse_candidate

from ..support.coturn import Coturn, coturn, needs_coturn
from ..support.embedded import PATIENCE, descriptors
from ..support.ports import free_port
from ..support.webrtc_ends import End, connected, introduce, without_candidates


class StunServer(asyncio.DatagramProtocol):
    """Answers as a server beyond a NAT would, or never; counts what it was asked."""

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent
        self.asked = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        if not self.silent:
            request = stun.parse_message(data)
            answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, request.transaction_id)
            answer.attributes["XOR-MAPPED-ADDRESS"] = ("203.0.113.9", addr[1])
            self.transport.sendto(bytes(answer), addr)


@asynccontextmanager
async def serving(*, silent: bool = False) -> AsyncIterator[tuple[StunServer, str]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: StunServer(silent=silent), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server, f"stun:127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    finally:
        transport.close()
        await asyncio.sleep(0)


async def test_a_stun_server_gives_a_candidate_that_is_trickled_and_then_the_end() -> None:
    async with serving() as (server, url):
        end = End(ice=IceServers(stun=(url, url)), loopback=True)
        offer = await end.peer.offer()
        assert "203.0.113.9" not in offer
        assert "end-of-candidates" not in offer
        await end.until(lambda: end.candidates[-1:] != [] and not end.candidates[-1].candidate)
        found = [each.candidate for each in end.candidates]
        assert len(found) > 1
        assert len(set(found)) == len(found)
        assert all(" 203.0.113.9 " in text and " typ srflx raddr " in text for text in found[:-1])
        assert end.candidates[0].sdp_mid == "0"
        assert f"a=ice-ufrag:{end.candidates[0].username_fragment}" in offer
        assert server.asked
        await end.peer.aclose()


async def test_a_stun_server_that_never_answers_holds_nothing_up() -> None:
    async with serving(silent=True) as (server, url):
        left, right = (End(ice=IceServers(stun=(url,)), loopback=True) for _ in range(2))
        await introduce(left, right)
        await left.open()
        await right.open()
        assert server.asked
        assert left.candidates == right.candidates == []  # not even the end
        await left.peer.aclose()
        await right.peer.aclose()


async def test_servers_that_cannot_be_asked_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "_ASK", 0.1)
    closed = free_port()
    servers = IceServers(
        stun=(f"stun:127.0.0.1:{closed}", "stun:no-such-host.invalid", "stun:127.0.0.1:99999"),
        turn=(f"turn:127.0.0.1:{closed}?transport=tcp",),
    )
    end = End(ice=servers)
    await end.peer.offer()
    await end.until(lambda: bool(end.candidates))
    assert [each.candidate for each in end.candidates] == [""]
    await end.peer.aclose()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "candidate:",
        "1 1 udp x 192.0.2.1 5000 typ host",
        "1 2 udp 1 192.0.2.1 5000 typ host",
        "1 1 udp 1 192.0.2.1 0 typ host",
        "1 1 udp 1 192.0.2.1 65536 typ host",
        "1 1 udp 1 192.0.2.1 -1 typ host",
        "1 1 udp 1 example.org 5000 typ host",
        "1 1 udp 1 0.0.0.0 5000 typ host",
        "1 1 udp 1 224.0.0.1 5000 typ host",
        "1 1 udp 1 ff02::fb 5000 typ host",
        "1 1 udp 1 :: 5000 typ host",
        "1 1 udp 1 255.255.255.255 5000 typ host",
        "1 1 udp 1 240.0.0.1 5000 typ host",
        "1 1 udp 1 ::ffff:192.0.2.1 5000 typ host",
        "1 1 udp 1 192.0.2.1 53 typ host",
        "1 1 udp 1 192.0.2.1 1023 typ srflx raddr 10.0.0.1 rport 5000",
        "1 1 udp 1 192.0.2.1 1900 typ relay raddr 10.0.0.1 rport 5000",
        "1 1 udp 1 192.0.2.1 11211 typ host",
        "1 1 udp 1 fe80::1%eth0 5000 typ host",
        "0 1 TCP 2105458943 5929838f-a21c-4107-b425-e8abc585aeff.local 9 typ host tcptype active",
        "1 1 udp 1 " + "a" * 100 + ".local 5000 typ host",
        "1 1 udp " + "9" * 5000 + " 192.0.2.1 5000 typ host",
    ],
)
def test_a_candidate_that_nothing_could_be_sent_to_is_left_out(text: str) -> None:
    assert parse_candidate(text) is None


def named(kind: str, ports: range, host: str = "192.0.2.1") -> list[str]:
    """A peer's candidates."""
    more = "" if kind == "host" else " raddr 10.0.0.1 rport 5000"
    return [f"candidate:1 1 udp 1 {host} {port} typ {kind}{more}" for port in ports]


async def test_only_so_many_candidates_are_taken_from_a_peer_some_of_each_type() -> None:
    connection = IceAgent(servers=(), candidates=8, loopback=False)
    assert len(connection.take([*named("host", range(6000, 6003)), "rubbish"])) == 3
    assert [each.port for each in connection.take(named("host", range(6003, 6010)))] == [6003]
    assert connection.take(named("host", range(6010, 6020))) == []
    assert len(connection.take(named("srflx", range(6000, 6010)))) == 2
    assert len(connection.take(named("relay", range(6000, 6010)))) == 2
    assert connection.take(named("prflx", range(6000, 6010))) == []


async def test_only_so_many_names_of_a_peer_are_asked_for() -> None:
    connection = IceAgent(servers=(), candidates=48, loopback=False)
    name = "{}b0d0a0c-0000-4000-8000-000000000000.local"
    texts = [text for number in range(5) for text in named("host", range(6000, 6001), name.format(number))]
    assert len(connection.take(texts)) == ice._NAMES
    assert len(connection.take(named("host", range(6000, 6001)))) == 1


class Victims:
    """UDP ports of this machine that have nothing to do with any tunnel; ``got``: when a packet came to one."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.got: list[float] = []
        self.transports: list[asyncio.DatagramTransport] = []

    async def __aenter__(self) -> Victims:
        loop = asyncio.get_running_loop()
        for _ in range(self._count):
            transport, _protocol = await loop.create_datagram_endpoint(lambda: Victim(self), ("127.0.0.1", 0))
            self.transports.append(transport)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for transport in self.transports:
            transport.close()
        await asyncio.sleep(0)

    @property
    def ports(self) -> list[int]:
        return [transport.get_extra_info("sockname")[1] for transport in self.transports]


class Victim(asyncio.DatagramProtocol):
    def __init__(self, victims: Victims) -> None:
        self._victims = victims

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._victims.got.append(time.monotonic())


async def offered(ports: list[int], *, host: str = "127.0.0.1", loopback: bool = True) -> End:
    """One that answers a stranger's offer, which says that the stranger is at these ports."""
    stranger, end = End(), End(loopback=loopback)
    sdp = without_candidates(await stranger.peer.offer())
    await stranger.peer.aclose()
    lines = "".join(f"a=candidate:1 1 udp 2130706431 {host} {port} typ host\r\n" for port in ports)
    await end.peer.answer(sdp + lines)
    return end


@pytest.fixture
def all_checks(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A full bucket, whatever tests ran before."""
    bucket = Bucket(ice._ALL_CHECKS, every=ice._EACH_CHECK)
    monkeypatch.setattr(ice, "_all_checks", bucket)
    return bucket


@pytest.mark.usefixtures("all_checks")
async def test_a_stranger_has_few_packets_sent_to_addresses_of_its_choice() -> None:
    async with Victims(60) as victims:
        begun = time.monotonic()
        end = await offered(victims.ports)
        await asyncio.sleep(3)
        allowed = ice._CHECKS + (time.monotonic() - begun) / ice._CHECK
        assert len(end.peer.agent.remote_candidates) == 24
        assert 24 <= len(victims.got) <= allowed
        await end.peer.aclose()


async def test_many_strangers_have_no_more_packets_sent_than_all_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "_all_checks", Bucket(100, every=0.02))
    async with Victims(24) as victims:
        begun = time.monotonic()
        ends = [await offered(victims.ports) for _ in range(8)]
        await asyncio.sleep(2)
        assert 100 <= len(victims.got) <= 100 + (time.monotonic() - begun) / 0.02
        for end in ends:
            await end.peer.aclose()


async def test_a_peer_is_met_while_strangers_use_all_checks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from an address with our password in it is answered by as many packets: so a peer gets through."""

    monkeypatch.setattr(ice, "_all_checks", Bucket(0, every=1e9))
    serve, proxy = End(loopback=True), End(loopback=True)
    elsewhere = proxy.peer.agent
    monkeypatch.setattr(elsewhere, "_may_check", lambda addr: True)  # another machine, which nobody floods
    await introduce(serve, proxy)
    async with asyncio.timeout(15):
        await serve.open()
        await proxy.open()
    await serve.peer.aclose()
    await proxy.peer.aclose()


async def test_this_machines_loopback_gets_no_packets_where_it_is_not_offered() -> None:
    connection = IceAgent(servers=(), candidates=48, loopback=False)
    addresses = ("127.0.0.1", "::1", "192.0.2.1")
    offer_host(connection, "192.0.2.9")
    assert checked(connection, *addresses) == ["192.0.2.1"]
    offer_host(connection, "127.0.0.1")
    assert checked(connection, *addresses) == [*addresses]


def checked(connection: IceAgent, *addresses: str) -> list[str]:
    """Those of the addresses to which checks are sent."""
    return [each for each in addresses if connection._may_check((each, 40_000))]


def offer_host(connection: IceAgent, host: str) -> None:
    """Have a connection offer an address beside those that it does."""
    connection._local_candidates.append(aioice.Candidate.from_sdp(f"1 1 udp 1 {host} 40000 typ host"))


def sockets_of(connection: IceAgent) -> list[aioice.ice.StunProtocol]:
    """Its ends on this machine's addresses."""
    return connection._protocols


@pytest.mark.usefixtures("all_checks")
async def test_checks_from_forged_senders_bring_each_of_them_as_many_packets_at_most() -> None:
    connection = IceAgent(servers=(), candidates=48, loopback=True)
    await connection.gather_candidates()
    connection.remote_username, connection.remote_password = "user", "password"
    sent: Counter[tuple[str, int]] = Counter()
    for protocol in sockets_of(connection):
        protocol.transport.sendto = lambda data, addr: sent.update([addr])  # type: ignore[method-assign]
    connecting = asyncio.create_task(connection.connect())
    await asyncio.sleep(0)
    protocol = sockets_of(connection)[-1]
    for port in (*range(1, 5), *range(6000, 6300)):
        check = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        check.attributes.update({"USERNAME": f"{connection.local_username}:user", "PRIORITY": 1})
        check.add_message_integrity(connection.local_password.encode())
        connection.request_received(check, ("127.0.0.1", port), protocol)
    await asyncio.sleep(2)
    assert min(addr[1] for addr in sent) >= 6000
    answers = checks = 300
    assert sent.total() <= answers + checks + ice._CHECKS + 3 / ice._CHECK
    connecting.cancel()
    await asyncio.wait((connecting,))
    await connection.close()


async def test_datagrams_of_strangers_do_no_harm() -> None:
    left, right = await connected()
    host = left.peer.agent.local_candidates[0]
    family = socket.AF_INET6 if ":" in host.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as stranger:
        for data in (b"", b"\0", b"\x16\xfe\xfd", b"\x17" * 1400, b"\xff" * 20, b"\x80" * 100):
            stranger.sendto(data, (host.host, host.port))
    await asyncio.sleep(0.1)
    await right.send(b"still here")
    await left.until(lambda: left.messages == [b"still here"])
    await left.peer.aclose()
    await right.peer.aclose()


async def test_only_so_many_datagrams_wait_for_dtls() -> None:
    connection = IceAgent(servers=(), candidates=1, loopback=False)
    for _ in range(10 * ice._WAITING):
        connection.data_received(b"\x17" * 1200, 1)
    assert delivered(connection) == [b"\x17" * 1200] * ice._WAITING


async def test_a_datagram_that_is_larger_than_any_packet_is_dropped() -> None:
    connection = IceAgent(servers=(), candidates=1, loopback=False)
    for size in (ice._DATAGRAM, ice._DATAGRAM + 1, 65_507):
        connection.data_received(b"\x17" * size, 1)
    assert delivered(connection) == [b"\x17" * ice._DATAGRAM]


def delivered(connection: IceAgent) -> list[bytes]:
    """What has waited for DTLS, and is given to it."""
    datagrams: list[bytes] = []
    connection.deliver(datagrams.extend)
    return datagrams


async def test_checks_from_ever_more_ports_make_only_so_many_paths() -> None:
    connection = IceAgent(servers=(), candidates=1, loopback=True)
    await connection.gather_candidates()
    check = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    check.attributes["PRIORITY"] = 1
    for port in range(2000, 2000 + ice._PAIRS + 10):
        connection.check_incoming(check, ("127.0.0.1", port), sockets_of(connection)[0])
    assert len(connection._check_list) == len(connection.remote_candidates) == ice._PAIRS
    await connection.close()


@pytest.mark.parametrize("cancels", [1, 2])
async def test_a_gathering_that_is_cancelled_leaves_no_socket(cancels: int) -> None:
    """Twice is what becomes of a link that is given up, and whose place another one takes."""

    before = descriptors()
    connection = IceAgent(servers=(), candidates=1, loopback=True)
    gathering = asyncio.create_task(connection.gather_candidates())
    for _ in range(cancels):
        await asyncio.sleep(0)
        gathering.cancel()
    await asyncio.wait((gathering,))
    await connection.close()
    await asyncio.sleep(0)
    assert descriptors() == before


def used_by_me(turn: Coturn) -> IceServers:
    return IceServers(stun=(), turn=(turn.url,), turn_user="me", turn_pass="secret")


@needs_coturn
@pytest.mark.parametrize("transports", [("udp",), ("tcp",), ("udp", "tcp")], ids=" ".join)
@pytest.mark.parametrize("others", [(), ("turn:127.0.0.1:9?transport=tcp", "turn:127.0.0.1:9")], ids=["", "dead-ones"])
async def test_where_hosts_do_not_reach_each_other_a_turn_server_relays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: FilePath, transports: tuple[str, ...], others: tuple[str, ...]
) -> None:
    async def no_hosts(self: IceAgent) -> None:
        self._local_candidates_start = self._local_candidates_end = True

    monkeypatch.setattr(IceAgent, "gather_candidates", no_hosts)
    async with coturn(tmp_path, user="me:secret") as turn:
        urls = [f"{turn.url}?transport={each}" for each in transports]
        servers = replace(used_by_me(turn), turn=(*others, *urls))
        left, right = End(ice=servers), End(ice=servers)
        await introduce(left, right)
        await left.open()
        await right.open()
        assert left.channel.path is right.channel.path is Path.TURN
        for number in range(50):
            await left.send(b"%d" % number * 5000)
        await right.until(lambda: len(right.messages) == 50)
        await left.channel.aclose()
        await right.channel.aclose()


@needs_coturn
async def test_wrong_credentials_are_told_in_one_line(tmp_path: FilePath, caplog: pytest.LogCaptureFixture) -> None:
    async with coturn(tmp_path, user="me:secret") as turn:
        end = End(ice=replace(used_by_me(turn), turn_pass="wrong"))
        await end.peer.offer()
        await end.until(lambda: bool(end.candidates))
        assert [each.candidate for each in end.candidates] == [""]
        assert [record.levelname for record in caplog.records if "cannot be used" in record.message] == ["WARNING"]
        await end.peer.aclose()


@needs_coturn
async def test_a_turn_server_that_dies_does_not_hold_a_close_up(tmp_path: FilePath) -> None:
    async with coturn(tmp_path, user="me:secret") as turn:
        end = End(ice=used_by_me(turn), timeouts=Timeouts(close=60.0))
        await end.peer.offer()
        await end.until(lambda: bool(end.candidates))
        assert " typ relay " in end.candidates[0].candidate
        turn.stop()
        async with asyncio.timeout(PATIENCE):
            await end.peer.aclose()
        with pytest.raises(ConnectFailed):
            await end.peer.channel()


def test_names_are_looked_up_on_each_loop_of_a_thread() -> None:
    async def look_up() -> list[BaseException | None]:
        agent = IceAgent(servers=(), candidates=8, loopback=True)
        names = [f"{n} 1 udp 2122260223 {uuid4()}.local 5000{n} typ host" for n in (1, 2)]
        both = [agent.add_remote_candidate(aioice.Candidate.from_sdp(name)) for name in names]
        raised = await asyncio.gather(*both, return_exceptions=True)
        await agent.close()
        return raised

    # At the second one, aioice makes a task wait for its lock.
    assert [asyncio.run(look_up()) for _ in range(2)] == [[None, None]] * 2


@pytest.mark.timeout(30)
async def test_a_connection_that_is_closed_in_the_turn_of_the_loop_in_which_it_starts_leaves_the_loop_free() -> None:
    gatherer = RTCIceGatherer(iceServers=[])
    gatherer._connection = IceAgent(servers=(), candidates=8, loopback=True, paths=frozenset({Path.RELAY}))
    await gatherer.gather()
    transport = RTCIceTransport(gatherer)
    starting = asyncio.create_task(transport.start(RTCIceParameters(usernameFragment="u", password="p")))
    await asyncio.create_task(transport.stop())
    await asyncio.wait_for(starting, PATIENCE)
