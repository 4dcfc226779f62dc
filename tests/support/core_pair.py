"""Two protocol cores back to back, with no socket between them: messages wait until a test lets them through."""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from llmtunnel.config import Limits, Timeouts
from llmtunnel.errors import ProtocolError
from llmtunnel.protocol import frames
from llmtunnel.protocol.auth import ProxyCredentials, ServeCredentials
from llmtunnel.protocol.connection import Connection
from llmtunnel.protocol.events import ConnectionEnded, DataReceived, Event
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.greeting import Greeting
from llmtunnel.protocol.heads import RequestHead, ResponseHead
from llmtunnel.protocol.hello import ALL_FEATURES, Agree, Features, Hello
from llmtunnel.protocol.keys import Ticket
from llmtunnel.protocol.stream import StreamState
from llmtunnel.status import Role

GET = RequestHead(method=b"GET", target=b"/")
POST = RequestHead(method=b"POST", target=b"/")
OK = ResponseHead(status=200, reason=b"OK")


@dataclass(frozen=True)
class Established:
    """The greeting is done: streams may be opened."""

    features: Features
    agent: str


class Core:
    """A greeting, and the connection that comes of it, one after the other."""

    def __init__(self, role: Role, *, now: float, features: Features = ALL_FEATURES, **settings: Any) -> None:
        self.role = role
        self._settings = {name: settings.get(name) for name in ("limits", "timeouts")}
        self._greeting = Greeting(role, now=now, features=features, **settings)
        self._connection: Connection | None = None
        self._agent = ""
        """What the peer says that it is."""

    @property
    def established(self) -> bool:
        return self._connection is not None

    @property
    def features(self) -> Features:
        return self._greeting._handshake.features

    @property
    def ticket(self) -> Ticket | None:
        return self._greeting.agreement and self._greeting.agreement.ticket

    @property
    def ended(self) -> ConnectionEnded | None:
        return self._connection.ended if self._connection else self._greeting.ended

    @property
    def was_guessed(self) -> bool:
        return self._greeting.was_guessed

    def receive_message(self, message: bytes, now: float) -> list[Event | Established]:
        if self._connection:
            return [*self._connection.receive_message(message, now)]
        self._agent = agent_of(message) or self._agent
        before = self._greeting.ended
        self._greeting.receive_message(message, now)
        if agreement := self._greeting.agreement:
            self._connection = Connection(self.role, agreement, now=now, **self._settings)
            return [Established(agreement.features, self._agent)]
        return [self._greeting.ended] if self._greeting.ended and not before else []

    def next_timer(self) -> float | None:
        return (self._connection or self._greeting).next_timer()

    def handle_timer(self, now: float) -> list[Event]:
        if self._connection:
            return self._connection.handle_timer(now)
        self._greeting.handle_timer(now)
        return [self._greeting.ended] if self._greeting.ended else []

    @property
    def pipes(self) -> int:
        return self._connection.line.outbox.pipes if self._connection else 1

    def message_to_send(self, pipe: int = 0, *, size: int = frames.MAX_MESSAGE) -> bytes | None:
        message = None if pipe else self._greeting.message_to_send()
        return self._connection.message_to_send(pipe, size=size) if message is None and self._connection else message

    @property
    def streams(self) -> dict[int, StreamState]:
        return self._connection.streams if self._connection else {}

    def __getattr__(self, name: str) -> Any:
        if name == "_connection":  # not yet: it is being copied
            raise AttributeError(name)
        return getattr(self._connection, name)


def agent_of(message: bytes) -> str:
    """The agent that a HELLO or AGREE names; empty where it names none, or is another frame."""
    frame = frames.decode(message) if len(message) <= frames.MAX_MESSAGE else None
    with suppress(ProtocolError):
        if frame is not None and frame.type == FrameType.HELLO:
            return Hello.decode(frame.payload).agent
        if frame is not None and frame.type == FrameType.AGREE:
            return Agree.decode(frame.payload).agent
    return ""


@dataclass
class End:
    """One core, what it heard, and what is on its way to it."""

    connection: Core
    inbox: deque[bytes] = field(default_factory=deque)
    events: list[Event | Established] = field(default_factory=list)

    def take_events(self) -> list[Event | Established]:
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
            Core(
                Role.PROXY,
                now=0.0,
                limits=limits,
                timeouts=timeouts,
                features=proxy_features,
                agent="p/1",
                certificate=b"of serve",
                credentials=proxy_credentials,
            )
        )
        self.serve = End(
            Core(
                Role.SERVE,
                now=0.0,
                limits=limits,
                timeouts=timeouts,
                features=serve_features,
                agent="s/1",
                certificate=b"of proxy",
                credentials=serve_credentials,
            )
        )
        if hello:
            self.pump()
            self.proxy.take_events(), self.serve.take_events()

    def other(self, end: End) -> End:
        return self.serve if end is self.proxy else self.proxy

    def flush(self, end: End, *, most: int | None = None) -> None:
        """Put what an end has to send on its way, or so many messages of it."""
        self.post(end, sent(end.connection, most=most))

    def post(self, end: End, messages: list[bytes]) -> None:
        """Put messages of an end on their way."""
        self.other(end).inbox.extend(messages)

    def deliver(self, end: End) -> list[Event | Established]:
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


class Piped(bytes):
    """A message, and the pipe of the channel that it goes over."""

    pipe = 0


def sent(connection: Core, *, most: int | None = None, size: int = frames.MAX_MESSAGE) -> list[bytes]:
    """The messages that a core has to send, or so many of them; in one pipe, those of each in order."""
    messages: list[bytes] = []
    for pipe in reversed(range(connection.pipes)):
        while most is None or len(messages) < most:
            message = connection.message_to_send(pipe, size=size)
            if message is None:
                break
            assert 0 < len(message) <= frames.MAX_MESSAGE
            messages.append(message if connection.pipes == 1 else Piped(message))
            if pipe:
                messages[-1].pipe = pipe  # type: ignore[attr-defined]
    return messages


def frames_of(messages: list[bytes]) -> list[frames.Frame]:
    """Their frames, bundles opened."""
    found: list[frames.Frame] = []
    for message in messages:
        frame = frames.decode(message)
        assert frame is not None
        found += frames.unbundle(frame.payload) if frame.type == FrameType.BUNDLE else [frame]
    return found


def established(role: Role, *, features: Features = ALL_FEATURES, limits: Limits | None = None) -> Core:
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
