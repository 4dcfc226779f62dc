"""Signalling: what the server tells us, what peers describe, and what clients tell the server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Coroutine
from dataclasses import asdict
from random import Random
from typing import Final

from llmtunnel.errors import ConnectFailed, ProtocolError
from llmtunnel.signaling import messages
from llmtunnel.signaling.messages import IceCandidate, Joined
from llmtunnel.signaling.negotiation import MakeAnswer, MakeOffer, Negotiation
from llmtunnel.status import Role
from llmtunnel.transport import sdp
from signal_server.access import Access
from signal_server.hub import Hub
from signal_server.ice import IceServers
from signal_server.limits import MESSAGE, Limits
from signal_server.messages import Message, Refused, encode, parse

from . import mutations

SDP: Final = str(
    sdp.Description(
        ufrag="abcd",
        password="x" * 24,
        fingerprints=(sdp.Fingerprint(algorithm="sha-256", value=":".join(["AB"] * 32)),),
        setup="actpass",
        candidates=("1 1 udp 2130706431 127.0.0.1 5000 typ host",),
    )
)
CANDIDATE: Final = IceCandidate(candidate="candidate:1 1 udp 1 127.0.0.1 5 typ host", sdp_mid="0", sdp_m_line_index=0)
TOKENS: Final = ["one-token", "another-token"]
SERVERS: Final = IceServers(stun=("stun:a:3478",), turn=("turn:a", "turns:a:443"), secret="s")
ICE: Final = SERVERS.offer("a", now=0)
FROM_SERVER: Final = [
    '{"type":"joined","peerId":"A","peers":["B","C"]}',
    '{"type":"joined","peerId":"A","peers":["B"],"role":"proxy","token":"t","members":[{"peerId":"B","role":"serve","instance":"i"}]}',
    '{"type":"peer-joined","peerId":"B","role":"serve","instance":"i"}',
    '{"type":"peer-joined","peerId":"C"}',
    '{"type":"peer-left","peerId":"B"}',
    json.dumps({"type": "offer", "peerId": "B", "sdp": SDP}),
    json.dumps({"type": "answer", "peerId": "B", "sdp": SDP}),
    json.dumps(json.loads(messages.candidate(CANDIDATE, to=None)) | {"peerId": "B"}),
    '{"type":"joined","peerId":"A","peers":[],"relay":{"rate":4194304,"total":9e9,"idle":60.0}}',
    '{"type":"pipe","peerId":"B","ticket":"t-1_x"}',
    '{"type":"error","message":"room is full","code":"room-full"}',
    json.dumps({"type": "joined", "peerId": "A", "peers": [], "role": "proxy", "ice": ICE}),
    json.dumps({"type": "ice", "ice": ICE}),
]
FROM_CLIENT: Final = [
    '{"type":"join","room":"R"}',
    messages.join("R", role=Role.SERVE, instance="i", token="t"),
    messages.join("R", role=Role.PROXY, instance="j"),
    messages.join("R", role=Role.PROXY, instance="j", access=TOKENS[0]),
    messages.join("R", role=Role.SERVE, instance="i", token="t", access=TOKENS[1]),
    messages.join("R", role=Role.PROXY, instance="j", access="not-a-token"),
    messages.offer(SDP, to="B"),
    messages.answer(SDP, to=None),
    messages.candidate(CANDIDATE, to=None),
    messages.pipe("B"),
    messages.ask_ice(),
    messages.bye(),
]


def _text(rng: Random, said: str) -> str:
    """A spoilt message as a WebSocket hands it over: text that is valid UTF-8."""
    return mutations.of_json(rng, said).decode("utf-8", "replace")


def from_server(rng: Random) -> None:
    """What a signal server says: a message, nothing, or `ProtocolError`; and what to do about it is always known."""
    negotiation = Negotiation(rng.choice(list(Role)))
    for _ in range(rng.randrange(1, 6)):
        said = rng.choice(FROM_SERVER)
        try:
            message = messages.parse(_text(rng, said) if rng.random() < 0.5 else said)
        except ProtocolError:
            continue
        if message is None:
            continue
        json.dumps(asdict(message), ensure_ascii=False).encode()  # no half of a surrogate pair
        to_do = negotiation.joined(message) if isinstance(message, Joined) else negotiation.receive(message)
        for instruction in to_do:
            if isinstance(instruction, MakeOffer | MakeAnswer):
                negotiation.linked(instruction.member)
                if rng.random() < 0.5:
                    negotiation.established(instruction.member.peer_id)


def descriptions(rng: Random) -> None:
    """A peer's SDP: a description that can be written again, or `ConnectFailed`."""
    try:
        taken = sdp.parse(mutations.of_bytes(rng, SDP.encode()).decode("utf-8", "replace"))
    except ConnectFailed:
        return
    assert sdp.parse(str(taken)) == taken


class _Outlet:
    """A client of the signal server's hub."""

    def __init__(self, hub: Hub, network: str) -> None:
        self._hub = hub
        self.network = network
        self.remote = ""
        self.ids: list[str] = []

    def send(self, message: Message) -> None:
        """Bounded, and JSON."""
        text = encode(message)
        assert len(text.encode()) <= MESSAGE
        if message["type"] == "joined":
            self.ids.append(str(message["peerId"]))

    def drop(self) -> None:
        """Cut off: it leaves, as its connection would have it."""
        self._hub.leave(self)


def from_clients(rng: Random) -> None:
    """What clients say to the signal server: it is acted on, or `Refused`; rooms stay within their bounds."""
    limits = Limits(proxies=2, rooms=3, members=6, rooms_each=2, members_each=3, joins=1)
    access = Access(rng.choice([None, TOKENS[:1], TOKENS]))
    hub = Hub(limits, access=access, ice=rng.choice((None, SERVERS)))
    outlets = [_Outlet(hub, f"192.0.2.{number % 3}") for number in range(5)]
    for _ in range(rng.randrange(1, 15)):
        outlet, said = rng.choice(outlets), rng.choice(FROM_CLIENT)
        known = [each for other in outlets for each in other.ids]
        text = said.replace('"B"', json.dumps(rng.choice(known))) if known else said
        if rng.random() < 0.1:
            hub.leave(outlet)
            continue
        try:
            text = _text(rng, text) if rng.random() < 0.5 else text
            hub.charge(outlet, len(text.encode()), now=0.0)
            request = parse(text)
            before = hub.member(outlet)
            _at_once(hub.delay(outlet, request, now=0.0))
            _at_once(hub.receive(outlet, request, now=0.0))
            assert before or not hub.member(outlet) or access.admits(request), "no stranger gets in"
        except Refused as refusal:
            hub.note(outlet, refusal, now=0.0)
            outlet.send(refusal.message)
        _check_hub(hub, outlets, limits)


def _at_once(work: Coroutine[object, object, object]) -> None:
    """Run what waits for nothing where rooms are kept in memory."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def _check_hub(hub: Hub, outlets: list[_Outlet], limits: Limits) -> None:
    joined = [member for outlet in outlets if (member := hub.member(outlet))]
    assert len(joined) == len(hub) <= limits.members
    assert max(Counter(member.address for member in joined).values(), default=0) <= limits.members_each
    rooms = [hub.registry.room(name) for name in {member.room for member in joined}]
    assert len(rooms) == len(hub.registry) <= limits.rooms
    assert {member for room in rooms for member in room.members} == set(joined)
    assert max(Counter(room.creator for room in rooms).values(), default=0) <= limits.rooms_each
    assert all(len(room.members) <= 1 + limits.proxies for room in rooms)
