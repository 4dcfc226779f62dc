"""Two protocol cores back to back, with no socket between them: messages wait until a test lets them through."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field

from llmtunnel.config import Limits, Timeouts
from llmtunnel.protocol import frames
from llmtunnel.protocol.auth import ProxyCredentials, ServeCredentials
from llmtunnel.protocol.connection import Connection
from llmtunnel.protocol.events import DataReceived, Event
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.heads import RequestHead, ResponseHead
from llmtunnel.protocol.hello import ALL_FEATURES, Features
from llmtunnel.status import Role

GET = RequestHead(method=b"GET", target=b"/")
POST = RequestHead(method=b"POST", target=b"/")
OK = ResponseHead(status=200, reason=b"OK")


@dataclass
class End:
    """One core, what it heard, and what is on its way to it."""

    connection: Connection
    inbox: deque[bytes] = field(default_factory=deque)
    events: list[Event] = field(default_factory=list)

    def take_events(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def body(self, stream: int) -> bytes:
        """The body bytes that have come for a stream."""
        return b"".join(
            event.data for event in self.events if isinstance(event, DataReceived) and event.stream == stream
        )


class ConnectionPair:
    """``proxy`` and ``serve``; `pump` until both are quiet, or `deliver` message by message."""

    def __init__(
        self,
        *,
        proxy_features: Features = ALL_FEATURES,
        serve_features: Features = ALL_FEATURES,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        hello: bool = True,
        proxy_credentials: ProxyCredentials | None = None,
        serve_credentials: ServeCredentials | None = None,
    ) -> None:
        self.now = 0.0
        self.proxy = End(
            Connection(
                Role.PROXY,
                now=0.0,
                limits=limits,
                timeouts=timeouts,
                features=proxy_features,
                agent="p/1",
                credentials=proxy_credentials,
            )
        )
        self.serve = End(
            Connection(
                Role.SERVE,
                now=0.0,
                limits=limits,
                timeouts=timeouts,
                features=serve_features,
                agent="s/1",
                credentials=serve_credentials,
            )
        )
        if hello:
            self.pump()
            self.proxy.take_events(), self.serve.take_events()

    def other(self, end: End) -> End:
        return self.serve if end is self.proxy else self.proxy

    def flush(self, end: End) -> None:
        """Put what an end has to send on its way."""
        self.other(end).inbox.extend(sent(end.connection))

    def deliver(self, end: End) -> list[Event]:
        """Let the next message through to an end."""
        events = end.connection.receive_message(end.inbox.popleft(), self.now)
        end.events += events
        return events

    def pump(self) -> None:
        """Send and deliver until both are quiet."""
        moving = True
        while moving:
            moving = False
            for end in (self.proxy, self.serve):
                self.flush(end)
                while self.other(end).inbox:
                    self.deliver(self.other(end))
                    moving = True

    def open(self, head: RequestHead = GET, *, ended: bool = False) -> int:
        """A stream that serve knows of."""
        stream = self.proxy.connection.open_stream(head, ended=ended)
        self.pump()
        return stream

    def send(self, end: End, stream: int, data: bytes) -> None:
        """Send all of a body, the far side consuming what comes."""
        view = memoryview(data)
        while view:
            view = view[end.connection.send_data(stream, view) :]
            self.pump()
            self.consume(self.other(end), stream)

    def consume(self, end: End, stream: int) -> None:
        """The application takes what has come since it last did; `End.body` keeps it."""
        for index, event in enumerate(end.events):
            if isinstance(event, DataReceived) and event.stream == stream and not isinstance(event, _Consumed):
                end.events[index] = _Consumed(event.stream, event.data)
                end.connection.consumed(stream, len(event.data))
        self.pump()


class _Consumed(DataReceived):
    """Body bytes that the application has taken."""


def sent(connection: Connection) -> list[bytes]:
    """The messages that a core has to send."""
    messages = []
    while (message := connection.message_to_send()) is not None:
        assert 0 < len(message) <= frames.MAX_MESSAGE
        messages.append(message)
    return messages


def frames_of(messages: list[bytes]) -> list[frames.Frame]:
    """Their frames, bundles opened."""
    found: list[frames.Frame] = []
    for message in messages:
        frame = frames.decode(message)
        assert frame is not None
        found += frames.unbundle(frame.payload) if frame.type == FrameType.BUNDLE else [frame]
    return found


def established(role: Role, *, features: Features = ALL_FEATURES, limits: Limits | None = None) -> Connection:
    """One core whose peer, not there, has agreed on ``features``."""
    pair = ConnectionPair(proxy_features=features, serve_features=features, limits=limits)
    return (pair.proxy if role is Role.PROXY else pair.serve).connection


def head_frame(role: Role, stream: int, **changes: object) -> bytes:
    """The head that a peer of that role begins its half with, by whatever features; ``changes`` spoil it."""
    own: dict[str, object] = {"method": "GET", "path": "/"} if role is Role.PROXY else {"status": 200}
    type_ = FrameType.REQ_HEADERS if role is Role.PROXY else FrameType.RES_HEADERS
    members = {"stream_id": stream, **own, "headers": {}, "fields": [], **changes}
    return frames.encode(type_, stream, json.dumps(members).encode())


def request_frame(stream: int, **changes: object) -> bytes:
    """A REQ_HEADERS."""
    return head_frame(Role.PROXY, stream, **changes)
