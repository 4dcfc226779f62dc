"""Megabytes to a peer that echoes them, and back: their content, order and boundaries, also where packets are lost."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Final, Protocol

from llmtunnel.transport.sctp.association import Association, Event
from llmtunnel.transport.webrtc import WebRtcChannel

from .webrtc_ends import End, candidates_of, without_candidates

OFFERS: Final = ("we", "it")
PATHS: Final = ("clean", "lossy")
DTLS: Final = ("client", "server")
"""Our role."""
LOSS: Final = 0.01
"""Of the packets in each direction, where the path is lossy."""
SIZES: Final = (1, 1000, 1160, 1161, 16_384, 65_536)
SOME: Final = 2_000_000
MANY: Final = 100_000_000
UNDER_WAY: Final = 2 << 20
"""Bytes that may be sent and have not come back: some peers' queues have no bound, and others end the channel."""


class Other(Protocol):
    """The other peer's half of the negotiation."""

    async def offer(self) -> str: ...

    async def answer(self, sdp: str) -> str: ...

    async def accept(self, sdp: str) -> None: ...


async def echo(end: End, other: Other, *, offers: str, dtls: str, path: str, size: int) -> None:
    """Connect in these roles, have that many bytes echoed, and close."""
    ours = "active" if dtls == "client" else "passive"
    if offers == "we":
        offer = (await end.peer.offer()).replace("setup:actpass", f"setup:{ours}")
        await end.peer.accept(await other.answer(offer))
    else:
        theirs = "passive" if dtls == "client" else "active"
        offer = (await other.offer()).replace("setup:actpass", f"setup:{theirs}")
        # We send nothing before the other has our answer: libdatachannel 0.22 begins ICE with it before it stores the
        # fingerprint, and refuses our certificate if our packets come in between.
        await other.accept(await end.peer.answer(without_candidates(offer)))
        for candidate in candidates_of(offer):
            end.peer.add_candidate(candidate)
    await end.open()
    assert end.peer._server == (dtls == "server")
    assert isinstance(end.channel, WebRtcChannel)
    lost = lose(end.channel.data._association, Random(7)) if path == "lossy" else None
    await _exchange(end, size)
    assert lost is None or min(lost) > 0, "packets were lost each way"
    await end.peer.aclose()


def lose(association: Association, rng: Random) -> list[int]:
    """Lose packets in both directions from now on. Returns how many were, out and in; this list counts on."""
    lost = [0, 0]
    send, receive = association.packet_to_send, association.receive_packet

    def packet_to_send(now: float) -> bytes | None:
        while (packet := send(now)) is not None and rng.random() < LOSS:
            lost[0] += 1
        return packet

    def receive_packet(data: bytes, now: float) -> list[Event]:
        if rng.random() < LOSS:
            lost[1] += 1
            return []
        return receive(data, now)

    association.packet_to_send, association.receive_packet = packet_to_send, receive_packet  # type: ignore[method-assign]
    return lost


def _messages(size: int) -> Iterator[bytes]:
    rng = Random(3)
    while size > 0:
        yield (message := rng.randbytes(rng.choice(SIZES)))
        size -= len(message)


async def _exchange(end: End, size: int) -> None:
    """Send messages, and compare what comes back with them: by hash, so that 100 MB are not kept."""
    expected: deque[bytes] = deque()
    under_way = 0

    def take() -> None:
        nonlocal under_way
        for message in end.messages:
            assert hashlib.sha256(message).digest() == expected.popleft()
            under_way -= len(message)
        end.messages.clear()

    def has_room() -> bool:
        take()
        return under_way < UNDER_WAY

    def is_all_back() -> bool:
        take()
        return not expected

    for message in _messages(size):
        await end.until(has_room)
        expected.append(hashlib.sha256(message).digest())
        under_way += len(message)
        await end.send(message)
    await end.until(is_all_back)
    assert not under_way
