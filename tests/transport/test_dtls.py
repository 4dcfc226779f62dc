from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from llmtunnel.transport.dtls import Dtls, fingerprints
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.sdp import Fingerprint

from ..support.embedded import until

LEFT, RIGHT = Identity(), Identity()


class Wire:
    """One end of a path between two ends; what it sends arrives in the loop's next turn."""

    def __init__(self) -> None:
        self.peer: Wire = self
        self.lost: set[int] = set()
        """Datagrams that do not arrive, by their number from 0."""
        self.sent = 0
        self._receive: Callable[[bytes], None] | None = None
        self._waiting: list[bytes] = []

    def transmit(self, datagram: bytes) -> None:
        if self.sent not in self.lost:
            asyncio.get_running_loop().call_soon(self.peer.take, datagram)
        self.sent += 1

    def deliver(self, receive: Callable[[bytes], None]) -> None:
        self._receive = receive
        for datagram in self._waiting:
            receive(datagram)

    def take(self, datagram: bytes) -> None:
        if self._receive is None:
            self._waiting.append(datagram)
        else:
            self._receive(datagram)


class End:
    def __init__(self, identity: Identity, wire: Wire, *, says: bytes = b"") -> None:
        """``says``: a packet that it sends as soon as it can."""
        self.heard: list[bytes] = []
        self.ended: list[str] = []
        self.dtls = Dtls(wire, identity, connected=self._connected, packet=self.heard.append, ended=self.ended.append)
        self._says = says
        self.connected = asyncio.Event()

    def _connected(self) -> None:
        assert not self.heard
        self.connected.set()
        if self._says:
            self.dtls.send(self._says)


def pair(*, says: bytes = b"") -> tuple[End, End, Wire, Wire]:
    left, right = Wire(), Wire()
    left.peer, right.peer = right, left
    return End(LEFT, left, says=says), End(RIGHT, right, says=says), left, right


async def shake_hands(client: End, server: End) -> None:
    client.dtls.start(server=False, announced=fingerprints(RIGHT))
    server.dtls.start(server=True, announced=fingerprints(LEFT))
    await client.connected.wait()
    await server.connected.wait()


async def test_packets_pass_each_way_from_the_first_moment_and_each_side_knows_what_it_was_shown() -> None:
    client, server, *_ = pair(says=b"at once")
    await shake_hands(client, server)
    client.dtls.send(b"from the client")
    server.dtls.send(b"x" * 16_000)
    await until(lambda: len(client.heard) == len(server.heard) == 2, "both have come")
    assert client.heard == [b"at once", b"x" * 16_000]
    assert server.heard == [b"at once", b"from the client"]
    assert client.dtls.remote == RIGHT.certificate
    assert server.dtls.remote == LEFT.certificate
    client.dtls.close()
    server.dtls.close()


@pytest.mark.parametrize("whose", ["client's", "server's", "each side's"])
async def test_a_flight_that_is_lost_is_sent_again(whose: str) -> None:
    client, server, left, right = pair()
    if whose != "server's":
        left.lost = {0, 2}
    if whose != "client's":
        right.lost = {0, 2}
    await shake_hands(client, server)
    client.dtls.send(b"packet")
    await until(lambda: server.heard == [b"packet"], "it has come")
    client.dtls.close()
    server.dtls.close()


async def test_rubbish_does_no_harm_in_the_handshake_nor_after_it() -> None:
    client, server, left, right = pair()
    rubbish = (b"\x16", b"\x17" * 40, b"\x16\xfe\xfd" + bytes(10), b"\x2f" * 20, b"\x14\xfe\xfd" + b"\xff" * 300)
    for each in rubbish:
        right.take(each)
    client.dtls.start(server=False, announced=fingerprints(RIGHT))
    for each in rubbish:
        left.take(each)
    server.dtls.start(server=True, announced=fingerprints(LEFT))
    await client.connected.wait()
    await server.connected.wait()
    for each in rubbish:
        left.take(each)
        right.take(each)
    client.dtls.send(b"packet")
    await until(lambda: server.heard == [b"packet"], "it has come")
    assert not client.ended
    assert not server.ended
    client.dtls.close()
    server.dtls.close()


FORGED = Fingerprint(algorithm="sha-256", value=":".join(["00"] * 32))
UNKNOWN = Fingerprint(algorithm="md5", value=":".join(["00"] * 16))


@pytest.mark.parametrize("announced", [(FORGED,), (UNKNOWN,), (*fingerprints(RIGHT), FORGED), ()])
async def test_another_certificate_than_the_announced_one_ends_it(announced: tuple[Fingerprint, ...]) -> None:
    client, server, *_ = pair()
    client.dtls.start(server=False, announced=announced)
    server.dtls.start(server=True, announced=fingerprints(LEFT))
    await until(lambda: bool(client.ended), "it has ended")
    assert "not the announced one" in client.ended[0]
    assert client.dtls.remote is None
    assert not client.connected.is_set()
    client.dtls.close()
    server.dtls.close()


async def test_one_fingerprint_of_a_digest_that_we_know_is_enough() -> None:
    client, server, *_ = pair()
    sha512 = [each for each in fingerprints(RIGHT) if each.algorithm == "sha-512"]
    client.dtls.start(server=False, announced=(UNKNOWN, *sha512, replace(UNKNOWN, algorithm="sha-1")))
    server.dtls.start(server=True, announced=fingerprints(LEFT))
    await client.connected.wait()
    client.dtls.close()
    server.dtls.close()


async def test_a_close_is_heard_of_at_the_other_end_and_only_there() -> None:
    client, server, _, right = pair()
    await shake_hands(client, server)
    client.dtls.close()
    client.dtls.close()
    await until(lambda: bool(server.ended), "it is heard of")
    assert server.ended == ["the connection to the peer was lost"]
    assert not client.ended
    sent = right.sent
    server.dtls.send(b"too late")
    server.dtls.close()
    assert right.sent == sent


async def test_a_close_in_the_handshake_leaves_no_timer() -> None:
    client, server, left, _ = pair()
    left.lost = {0}
    client.dtls.start(server=False, announced=fingerprints(RIGHT))
    assert client.dtls._timer is not None
    client.dtls.close()
    assert client.dtls._timer is None
    server.dtls.close()  # it has not begun
