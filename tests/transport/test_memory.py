from __future__ import annotations

import asyncio

import pytest

from llmtunnel.errors import ChannelClosed
from llmtunnel.paths import Path
from llmtunnel.transport.memory import linked_pair

from ..support.embedded import settle


class Log:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def message_received(self, message: bytes) -> None:
        self.calls.append(message)

    def room_available(self) -> None:
        self.calls.append("room")

    def channel_closed(self, reason: str) -> None:
        self.calls.append(f"closed: {reason}")


async def test_messages_arrive_in_order_and_never_inside_send() -> None:
    left, right = linked_pair(delay=0.001)
    log = Log()
    right.attach(log)
    sent = [b"%d" % number for number in range(100)]
    for message in sent:
        left.send(message)
    assert log.calls == []
    await asyncio.sleep(0.05)
    assert log.calls == sent
    assert left.path is Path.UNKNOWN


async def test_what_came_before_attach_is_kept_and_counts_against_the_room() -> None:
    left, right = linked_pair(room=4)
    sender, log = Log(), Log()
    left.attach(sender)
    left.send(b"four")
    await settle()
    assert not left.has_room
    right.attach(log)
    assert log.calls == []
    await settle()
    assert log.calls == [b"four"]
    assert sender.calls == ["room"]
    assert left.has_room


async def test_a_close_comes_after_what_was_sent_and_is_told_once_to_both() -> None:
    left, right = linked_pair()
    sender, log = Log(), Log()
    left.attach(sender)
    right.attach(log)
    left.send(b"last")
    await left.aclose()
    await left.aclose()
    await right.aclose()
    await settle()
    assert log.calls == [b"last", "closed: closed by the peer"]
    assert sender.calls == ["closed: closed by us"]
    with pytest.raises(ChannelClosed):
        left.send(b"more")


async def test_a_cut_link_is_silent_both_ways_and_fills() -> None:
    left, right = linked_pair(room=4)
    sender, log = Log(), Log()
    left.attach(sender)
    right.attach(log)
    left.cut()
    left.send(b"lost")
    right.send(b"lost")
    await settle()
    assert sender.calls == log.calls == []
    assert not left.has_room
    await left.aclose()
    await settle()
    assert sender.calls == ["closed: closed by us"]
    assert log.calls == []


async def test_a_killed_link_loses_what_travels_and_tells_both() -> None:
    left, right = linked_pair()
    sender, log = Log(), Log()
    left.attach(sender)
    left.send(b"lost")
    right.kill()
    await settle()
    right.attach(log)
    await settle()
    assert sender.calls == log.calls == ["closed: killed"]
    assert not left.has_room
