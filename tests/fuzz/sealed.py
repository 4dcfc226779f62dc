"""The sealed form of a pipe: whatever comes, an error or what was sent, and never anything else."""

from __future__ import annotations

from random import Random
from typing import Final

from llmtunnel.errors import ProtocolError
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.sealed import EitherForm, Sealed

from . import mutations

SERVE: Final = Identity()
MOST: Final = 2 + 65_535
"""Bytes that an end holds at most of what it cannot read yet: a record."""


def strangers(rng: Random) -> None:
    """Serve's end against any bytes: an error, or it waits for more."""
    serve = EitherForm(SERVE)
    begin = rng.choice([b"", b"\x01", Sealed(server=False).bytes_to_send(), b"\x16\x03\x01"])
    try:
        for data in (begin, rng.randbytes(rng.choice([1, 32, 100, 70_000])), rng.randbytes(50)):
            assert serve.receive(data) == []
            serve.bytes_to_send()
    except ProtocolError:
        return
    assert not serve.ended


def records(rng: Random) -> None:
    """Records that somebody spoils: each message that is read was sent, in this order."""
    page, serve = Sealed(server=False, rekey_every=3), Sealed(server=True, rekey_every=3)
    serve.receive(page.bytes_to_send())
    page.receive(serve.bytes_to_send())
    sender, receiver = rng.sample([page, serve], 2)
    sent = [rng.randbytes(rng.choice([1, 20, 300])) for _ in range(rng.randrange(1, 8))]
    pieces = []
    for message in sent:
        sender.send(message)
        pieces.append(sender.bytes_to_send())
    if rng.random() < 0.5:
        sender.close()
        pieces.append(sender.bytes_to_send())
    pieces = mutations.of_sequence(rng, pieces, lambda piece: mutations.of_bytes(rng, piece))
    came: list[bytes] = []
    try:
        for piece in pieces:
            came += receiver.receive(piece)
            assert len(receiver._unread) <= MOST
    except ProtocolError:
        pass
    assert came == sent[: len(came)]
