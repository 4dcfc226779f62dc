"""Two cores that keep the rules, and messages that cross in every way: nobody is accused, and bodies stay whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmtunnel.config import Limits
from llmtunnel.errors import ErrorCode
from llmtunnel.protocol.events import (
    ClientClosed,
    ConnectionEnded,
    DataReceived,
    EndReceived,
    Event,
    RequestReceived,
    RestUnwanted,
    StreamEnded,
)
from llmtunnel.protocol.heads import RequestHead
from llmtunnel.protocol.hello import ALL_FEATURES, Feature, Features
from llmtunnel.protocol.stream import State

from ..support.core_pair import OK, POST, ConnectionPair, End

features = st.frozensets(st.sampled_from(sorted(ALL_FEATURES)))
sides = st.booleans()
picks = st.integers(0, 10)
MOST: Final = 6000
"""Body bytes that are sent at once, at most; where no credit is agreed on, one frame has all of them."""


class Interleavings(RuleBasedStateMachine):
    """What each side's application and the network may do, in any order."""

    def make_pair(self, proxy: Features, serve: Features, limits: Limits) -> ConnectionPair:
        return ConnectionPair(proxy_features=proxy, serve_features=serve, limits=limits)

    @initialize(proxy=features, serve=features, window=st.integers(1024, 5000))
    def connect(self, proxy: Features, serve: Features, window: int) -> None:
        self.pair = self.make_pair(proxy, serve, Limits(window=window, streams=8))
        self.window = window
        self.sent: dict[tuple[bool, int], bytearray] = {}
        self.came: dict[tuple[bool, int], bytearray] = {}
        self.unread: dict[tuple[bool, int], int] = {}
        self.streams: list[int] = []
        self.known: set[int] = set()
        self.given_up: set[int] = set()
        self.heads: dict[int, RequestHead] = {}
        self.closed: set[int] = set()
        self.seen_closed: set[int] = set()

    def end(self, proxy: bool) -> End:
        return self.pair.proxy if proxy else self.pair.serve

    def pick(self, pick: int) -> int:
        return self.streams[pick % len(self.streams)]

    def can_send(self, proxy: bool, stream: int) -> bool:
        state = self.end(proxy).connection.streams.get(stream)
        return state is not None and state.tx.state is State.OPEN

    @rule(pick=picks)
    def open(self, pick: int) -> None:
        connection = self.pair.proxy.connection
        if len(self.streams) < 8:
            before = self.pick(pick) if self.streams and pick else 0
            client = self.heads[before].client or before if before else 0
            head = replace(POST, client=0 if client in self.closed else client)
            stream = connection.open_stream(head)
            self.streams.append(stream)
            self.heads[stream] = head if Feature.CLIENT in connection.features else POST

    @precondition(lambda self: self.streams)
    @rule(pick=picks)
    def close_client(self, pick: int) -> None:
        """As a gateway does: the client's streams have ended, or been given up, before."""
        connection = self.pair.proxy.connection
        client = self.heads[self.pick(pick)].client or self.pick(pick)
        theirs = [stream for stream in self.streams if client in (stream, self.heads[stream].client)]
        if client not in self.closed:
            for stream in theirs:
                self.given_up |= {stream} if connection.is_open(stream) else set()
                connection.reset(stream, ErrorCode.CANCELLED, "the client has left")
            connection.close_client(client)
            self.closed.add(client)

    @precondition(lambda self: self.streams)
    @rule(pick=picks)
    def respond(self, pick: int) -> None:
        state = self.pair.serve.connection.streams.get(self.pick(pick))
        if state is not None and state.tx.state is State.WAITING:
            self.pair.serve.connection.send_response(self.pick(pick), OK)

    @precondition(lambda self: self.streams)
    @rule(proxy=sides, pick=picks, size=st.integers(1, MOST), fill=st.binary(min_size=1, max_size=1))
    def send(self, proxy: bool, pick: int, size: int, fill: bytes) -> None:
        stream = self.pick(pick)
        if self.can_send(proxy, stream):
            taken = self.end(proxy).connection.send_data(stream, memoryview(fill * size))
            self.sent.setdefault((proxy, stream), bytearray()).extend(fill * taken)

    @precondition(lambda self: self.streams)
    @rule(proxy=sides, pick=picks)
    def send_end(self, proxy: bool, pick: int) -> None:
        if self.can_send(proxy, self.pick(pick)):
            self.end(proxy).connection.send_end(self.pick(pick))

    @precondition(lambda self: self.streams)
    @rule(proxy=sides, pick=picks, code=st.sampled_from([ErrorCode.CANCELLED, ErrorCode.UPSTREAM]))
    def reset(self, proxy: bool, pick: int, code: ErrorCode) -> None:
        self.given_up.add(self.pick(pick))
        self.end(proxy).connection.reset(self.pick(pick), code, "enough")

    @precondition(lambda self: self.streams)
    @rule(proxy=sides, pick=picks)
    def read(self, proxy: bool, pick: int) -> None:
        size = self.unread.pop((proxy, self.pick(pick)), 0)
        if size:
            self.end(proxy).connection.consumed(self.pick(pick), size)

    @rule(proxy=sides)
    def flush(self, proxy: bool) -> None:
        self.pair.flush(self.end(proxy))

    @rule(proxy=sides)
    def flush_one(self, proxy: bool) -> None:
        self.pair.flush(self.end(proxy), most=1)

    @rule(proxy=sides, count=st.integers(1, 3))
    def deliver(self, proxy: bool, count: int) -> None:
        for _ in range(count):
            if self.end(proxy).inbox:
                for event in self.pair.deliver(self.end(proxy)):
                    self.see(proxy, event)

    def see(self, proxy: bool, event: Event) -> None:
        match event:
            case RequestReceived(stream, head):
                assert head == self.heads[stream] and stream not in self.known
                self.known.add(stream)
            case ClientClosed(client):
                assert client in self.closed - self.seen_closed
                assert client in self.known | self.given_up, "it is behind the head, which may have been taken back"
                self.seen_closed.add(client)
            case DataReceived(stream, data):
                key = (proxy, stream)
                self.came.setdefault(key, bytearray()).extend(data)
                self.unread[key] = self.unread.get(key, 0) + len(data)
            case EndReceived(stream):
                assert self.came.get((proxy, stream), b"") == self.sent.get((not proxy, stream), b""), "an end is whole"
            case StreamEnded(stream, _, _, remote):
                assert remote, "nobody broke a rule"
                assert stream in self.given_up
            case RestUnwanted() | ConnectionEnded():
                raise AssertionError(event)

    @invariant()
    def what_came_is_what_was_sent_so_far(self) -> None:
        for (proxy, stream), data in getattr(self, "came", {}).items():
            assert self.sent[not proxy, stream].startswith(data)

    @invariant()
    def nobody_holds_more_than_the_window(self) -> None:
        if hasattr(self, "pair") and Feature.CREDIT in self.pair.proxy.connection.features:
            assert all(size <= self.window for size in self.unread.values())

    def teardown(self) -> None:
        """Once everything is delivered and read, each open stream takes more: no credit was lost."""
        if not hasattr(self, "pair"):
            return
        for _ in range(3):
            while any(self.settle(proxy) for proxy in (True, False)):
                pass
            for proxy, stream in list(self.unread):
                self.end(proxy).connection.consumed(stream, self.unread.pop((proxy, stream)))
        if Feature.CLIENT in self.pair.serve.connection.features:
            assert self.seen_closed == self.closed
        else:
            assert not self.seen_closed
        for proxy in (True, False):
            for stream in self.streams:
                if self.can_send(proxy, stream) and self.end(not proxy).connection.is_open(stream):
                    assert self.end(proxy).connection.send_data(stream, memoryview(b"more")) > 0

    def settle(self, proxy: bool) -> bool:
        self.pair.flush(self.end(not proxy))
        moved = bool(self.end(proxy).inbox)
        while self.end(proxy).inbox:
            self.deliver(proxy, 1)
        return moved


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=60)
