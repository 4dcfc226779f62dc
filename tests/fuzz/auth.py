"""The handshake with a secret: who does not have it is not let in, and nobody is where somebody spoils it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from random import Random
from typing import Final

from llmtunnel.bucket import Bucket
from llmtunnel.protocol import frames
from llmtunnel.protocol.auth import ProxyCredentials, ServeCredentials
from llmtunnel.protocol.door import Door
from llmtunnel.protocol.events import ConnectionEnded
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.hello import Agree, AuthAnswer, Hello
from llmtunnel.protocol.keys import Certificates, Ticket
from llmtunnel.status import Role

from ..support.core_pair import Core
from . import mutations
from .wire import SMALL, spoil_message

SEEN: Final = Certificates(proxy=b"p" * 32, serve=b"s" * 32)
TICKET: Final = Ticket(id=b"i" * 16, key=b"k" * 32)
EXTRA: Final = [
    frames.encode(FrameType.AUTH, 0, bytes(32)),
    frames.encode(FrameType.AUTH, 0),
    frames.encode(FrameType.AGREE, 0, b'{"version":1}'),
    frames.encode(FrameType.HELLO, 0, Hello().encode()),
    frames.encode(FrameType.AGREE, 0, Agree(auth=AuthAnswer(nonce=bytes(32))).encode()),
    frames.encode(FrameType.RESET, 0, b"\0\x0ano"),
    frames.encode(FrameType.ERROR, 0, b"version: no"),
    frames.encode(FrameType.REQ_HEADERS, 1, b'{"stream_id":1,"method":"GET","path":"/","headers":{}}'),
    frames.encode(FrameType.RES_BODY, 1, b"x"),
    frames.encode(FrameType.PING, 0),
]


@cache
def _proxy(secret: str, *, returns: bool) -> Core:
    """One that has said nothing yet, to be copied: its key exchange takes long to make."""
    ticket = TICKET if returns else None
    credentials = ProxyCredentials(room="r", certificates=SEEN, secret=secret, ticket=ticket)
    return Core(Role.PROXY, now=0.0, limits=SMALL, credentials=credentials)


def _serve(secret: str, *, guesses: int = 1) -> Core:
    """One at whose door the proxy with the ticket was, and strangers too."""
    door = Door(secret)
    door.enter(SEEN.proxy, TICKET, 0.0)
    door.guesses = Bucket(guesses, every=1e9)
    credentials = ServeCredentials(room="r", certificates=SEEN, door=door)
    return Core(Role.SERVE, now=0.0, limits=SMALL, credentials=credentials)


@cache
def _recorded() -> tuple[bytes, ...]:
    """What honest peers, and one with another secret, said on other channels."""
    heard: list[bytes] = []
    for secret, returns in (("secret", False), ("secret", True), ("a guess", False)):
        credentials = ProxyCredentials(room="r", certificates=SEEN, secret=secret, ticket=TICKET if returns else None)
        heard += _talk(Core(Role.PROXY, now=0.0, credentials=credentials), _serve("secret"))
    return tuple(heard)


def _talk(proxy: Core, serve: Core) -> Iterator[bytes]:
    for sender, receiver in ((proxy, serve), (serve, proxy)) * 2:
        for message in _sent(sender):
            yield message
            receiver.receive_message(message, 0.0)


def _sent(core: Core) -> list[bytes]:
    messages = []
    while (message := core.message_to_send()) is not None:
        messages.append(message)
    return messages


def without_the_secret(rng: Random) -> None:
    """Either role against somebody who has heard others, and hears it: an end or nothing, and never a session."""
    returns = rng.random() < 0.5
    core = deepcopy(_proxy("secret", returns=returns)) if rng.random() < 0.6 else _serve("secret", guesses=returns)
    first = FrameType.AGREE if core.role is Role.PROXY else FrameType.HELLO
    heard = [*_recorded(), *EXTRA]
    for number in range(rng.randrange(1, 6)):
        heard += _sent(core)
        fitting = [message for message in heard if message[0] == (FrameType.AUTH if number else first)]
        message = rng.choice(fitting if rng.random() < 0.7 else heard)
        if rng.random() < 0.7:
            message = _of_type(rng, message, core.role)
        if rng.random() < 0.4:
            message = spoil_message(rng, message)
        for event in core.receive_message(message, 0.0):
            assert isinstance(event, ConnectionEnded)
        assert not core.established and core.ticket is None
    core.handle_timer(1000.0)
    assert core.ended is not None


def _of_type(rng: Random, message: bytes, role: Role) -> bytes:
    """A message sent back: a share of the one side as the other's, a hello as an agreement."""
    if rng.random() < 0.7:
        return message
    payload = message[frames.HEADER.size :].replace(b'"share":"41', b'"share":"42')
    return frames.encode(FrameType.AGREE if role is Role.PROXY else FrameType.HELLO, 0, payload)


def in_between(rng: Random) -> None:
    """Two with the secret, whose messages somebody spoils: a side is in only where it got what was sent, as it was."""
    proxy, serve = deepcopy(_proxy("secret", returns=rng.random() < 0.9)), _serve("secret")
    sent: dict[Core, list[bytes]] = {proxy: [], serve: []}
    got: dict[Core, list[bytes]] = {proxy: [], serve: []}
    spoils = rng.random() < 0.9
    for sender, receiver in ((proxy, serve), (serve, proxy)) * 2:
        messages = _sent(sender)
        sent[sender] += messages
        if spoils and rng.random() < 0.4:
            messages = mutations.of_sequence(rng, messages, lambda message: spoil_message(rng, message))
        for message in messages:
            got[receiver].append(message)
            receiver.receive_message(message, 0.0)
    assert spoils or (proxy.established and serve.established)
    for receiver, sender, types in (
        (serve, proxy, (FrameType.HELLO, FrameType.AUTH)),
        (proxy, serve, (FrameType.AGREE, FrameType.AUTH)),
    ):
        if receiver.established:
            assert [_payload(got[receiver], type_) for type_ in types] == [
                _payload(sent[sender], type_) for type_ in types
            ]


def _payload(messages: list[bytes], type_: FrameType) -> bytes | None:
    """Of the first frame of a type."""
    return next((message[frames.HEADER.size :] for message in messages if message[:1] == bytes([type_])), None)
