"""SCTP: two associations whose packets somebody spoils, repeats, loses and mixes up. DTLS would not let that pass."""

from __future__ import annotations

import time
from random import Random
from typing import Final

from llmtunnel.transport.sctp import packet
from llmtunnel.transport.sctp.association import WINDOW, Association, State
from llmtunnel.transport.sctp.inbound import Message

from . import mutations

SLOW: Final = 0.5
"""Seconds of processor time that one packet may cost, far beyond what any does."""


def packets(rng: Random) -> None:
    """Nothing is raised, what is held stays bounded, and no packet costs much; without spoiling, all arrives."""
    left, right = (Association(zero_checksum=rng.random() < 0.7, interleaving=rng.random() < 0.7) for _ in range(2))
    now = 0.0
    left.begin(now)
    spoils = rng.random() < 0.9
    arrived: list[Message] = []
    for number in range(rng.randrange(1, 12)):
        for side, other in ((left, right), (right, left)):
            if side.state is State.ESTABLISHED:
                side.send(rng.randrange(3), 53, rng.randbytes(rng.choice([1, 100, 3000])))
            sent = []
            while (each := side.packet_to_send(now)) is not None and len(sent) < 200:
                sent.append(each)
            if spoils and number and rng.random() < 0.5:
                sent = mutations.of_sequence(rng, sent, lambda raw, tag=other._tag: _spoil(rng, raw, tag))  # type: ignore[misc]
            for raw in sent:
                began = time.process_time()
                events = other.receive_packet(raw, now)
                assert time.process_time() - began < SLOW
                arrived += [event for event in events if isinstance(event, Message)]
            if (inbound := other._inbound) is not None:
                assert inbound._held <= 2 * WINDOW + 20_000
        for side in (left, right):
            if rng.random() < 0.1:
                side.trust()
                side.probe_path(now)
        now += rng.choice([0.0, 0.01, 0.5])
        for side in (left, right):
            if (due := side.next_timer()) is not None and due <= now:
                side.handle_timer(now)
    assert spoils or (left.state is not State.ENDED and right.state is not State.ENDED)


def _spoil(rng: Random, raw: bytes, tag: int) -> bytes:
    """A packet that is whole, with chunks that are not as they were."""
    try:
        _, chunks = packet.parse(raw)
    except packet.Malformed:
        return raw
    spoilt = [_spoil_chunk(rng, chunk) for chunk in chunks if rng.random() < 0.9]
    rng.shuffle(spoilt)
    has_checksum = rng.random() < 0.5
    return packet.seal(0 if rng.random() < 0.1 else tag, spoilt, has_checksum=has_checksum) if spoilt else raw


def _spoil_chunk(rng: Random, chunk: packet.Chunk) -> bytes:
    type_, flags, body = chunk
    match rng.randrange(5):
        case 0:
            type_ = rng.choice([*range(16), 64, 130, 192, 194, 255])
        case 1:
            flags = rng.randrange(256)
        case 2:
            body = mutations.of_bytes(rng, body)[:2000]
        case 3 if len(body) >= 4:
            tsn = (int.from_bytes(body[:4]) + rng.choice([-1, 1, 2, 100, 70_000, 2**31])) % 2**32
            body = tsn.to_bytes(4) + body[4:]
    return packet.chunk(type_, body, flags=flags)
