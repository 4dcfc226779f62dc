"""The JavaScript core behind the interface of the Python one: the proxy's `Greeting` and `Connection`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from llmtunnel.config import Limits, Timeouts
from llmtunnel.errors import ErrorCode, ProtocolError, TooManyStreams
from llmtunnel.protocol.auth import ProxyCredentials
from llmtunnel.protocol.connection import Connection
from llmtunnel.protocol.events import (
    ConnectionEnded,
    DataReceived,
    EndReceived,
    Event,
    PeerSilent,
    ResponseReceived,
    RestUnwanted,
    StreamEnded,
)
from llmtunnel.protocol.frames import MAX_MESSAGE
from llmtunnel.protocol.greeting import Greeting
from llmtunnel.protocol.handshake import Agreement
from llmtunnel.protocol.heads import RequestHead, ResponseHead
from llmtunnel.protocol.hello import ALL_FEATURES, Feature, Features, ResumeOffer
from llmtunnel.protocol.keys import Ticket
from llmtunnel.protocol.stream import State
from llmtunnel.status import Role

from .node import Calls, Handle, JsError

LIMITS = {
    "window": "window",
    "window_most": "windowMost",
    "journal": "journal",
    "lanes": "lanes",
    "v1_backlog": "v1Backlog",
    "held": "held",
    "control": "control",
}
"""The limits that a page has too, and their names there."""
TIMEOUTS = {
    "handshake": "handshake",
    "ping_busy": "pingBusy",
    "dead_busy": "deadBusy",
    "ping_idle": "pingIdle",
    "dead_idle": "deadIdle",
    "dead_suspect": "deadSuspect",
    "stream": "stream",
}
"""The same of timeouts."""


def limits_of(limits: Limits | None) -> dict[str, int]:
    return {there: getattr(limits or Limits(), here) for here, there in LIMITS.items()}


def timeouts_of(timeouts: Timeouts | None) -> dict[str, float]:
    return {there: getattr(timeouts or Timeouts(), here) for here, there in TIMEOUTS.items()}


def head_of(head: RequestHead) -> dict[str, object]:
    """A request's head, as JavaScript has it: its bytes are byte strings."""
    return {
        "method": head.method.decode("latin-1"),
        "target": head.target.decode("latin-1"),
        "fields": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in head.fields],
        "client": head.client,
        "last": head.last,
        "bench": head.bench,
    }


def response_of(head: dict[str, Any]) -> ResponseHead:
    fields = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in head["fields"])
    return ResponseHead(status=head["status"], reason=head["reason"].encode("latin-1"), fields=fields)


def event_of(event: dict[str, Any]) -> Event:
    match event:
        case {"kind": "response", "stream": stream, "head": head}:
            return ResponseReceived(stream, response_of(head))
        case {"kind": "data", "stream": stream, "data": data}:
            return DataReceived(stream, data)
        case {"kind": "end", "stream": stream}:
            return EndReceived(stream)
        case {"kind": "ended", "stream": stream, "code": code, "message": message, "remote": remote}:
            return StreamEnded(stream, ErrorCode(code), message, remote)
        case {"kind": "rest-unwanted", "stream": stream}:
            return RestUnwanted(stream)
        case {"kind": "silent"}:
            return PeerSilent()
        case {"kind": "over", "code": code, "message": message, "remote": remote}:
            return ConnectionEnded(ErrorCode(code), message, remote)
    raise AssertionError(event)


def over_of(ended: dict[str, Any] | None) -> ConnectionEnded | None:
    return ended and cast(ConnectionEnded, event_of(ended))


class WebGreeting:
    """`protocol.greeting.Greeting` of a proxy."""

    def __init__(
        self,
        calls: Calls,
        *,
        now: float,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        features: Features = ALL_FEATURES,
        agent: str = "",
        credentials: ProxyCredentials | None = None,
        certificate: bytes = b"",
        resume: ResumeOffer | None = None,
    ) -> None:
        self.role = Role.PROXY
        offered = None
        if credentials is not None:
            ticket = credentials.ticket
            offered = {
                "room": credentials.room,
                "secret": credentials.secret,
                "certificates": asdict(credentials.certificates),
                "ticket": ticket and {"id": ticket.id, "key": ticket.key},
                "guesses": _guesses(calls, credentials),
            }
        options = {
            "now": now,
            "limits": limits_of(limits),
            "timeouts": timeouts_of(timeouts),
            "features": features,
            "agent": agent,
            "credentials": offered,
            "certificate": certificate,
            "resume": resume and {"session": resume.session, "received": resume.received},
        }
        self._handle: Handle = calls("greeting.Greeting.begin", options)
        self._handshake = self

    @property
    def features(self) -> Features:
        return frozenset(Feature(each) for each in self._handle.get("features"))

    @property
    def agreement(self) -> Agreement | None:
        agreed = self._handle.get("agreement")
        if agreed is None:
            return None
        ticket, received = agreed["ticket"], agreed["received"]
        return Agreement(
            features=frozenset(Feature(each) for each in agreed["features"]),
            window=agreed["window"],
            streams=agreed["streams"],
            ticket=ticket and Ticket(**ticket),
            certificate=agreed["certificate"],
            session=agreed["session"],
            received=None if received is None else tuple(received),
            lanes=agreed["lanes"],
            tcp_only=agreed["tcpOnly"],
        )

    @property
    def ended(self) -> ConnectionEnded | None:
        return over_of(self._handle.get("ended"))

    @property
    def was_guessed(self) -> bool:
        return bool(self._handle.get("wasGuessed"))

    def receive_message(self, message: bytes, now: float) -> None:
        self._handle.call("receiveMessage", message, now)

    def next_timer(self) -> float | None:
        return cast("float | None", self._handle.call("nextTimer"))

    def handle_timer(self, now: float) -> None:
        self._handle.call("handleTimer", now)

    def message_to_send(self) -> bytes | None:
        return cast("bytes | None", self._handle.call("messageToSend"))

    def close(self, code: ErrorCode, message: str) -> None:
        self._handle.call("close", code, message)

    def break_off(self, code: ErrorCode, message: str) -> None:
        self._handle.call("breakOff", code, message)


def _guesses(calls: Calls, credentials: ProxyCredentials) -> Handle:
    """The bucket that stands for that of these credentials. Credentials that are `replace`d share it."""
    bucket = credentials.guesses
    found: Handle | None = getattr(bucket, "in_javascript", None)
    if found is None:
        found = calls("auth.newGuesses")
        bucket.in_javascript = found  # type: ignore[attr-defined]
    return found


class WebConnection:
    """`protocol.connection.Connection` of a proxy, and its `line`."""

    def __init__(
        self,
        calls: Calls,
        agreement: Agreement,
        *,
        now: float,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.role = Role.PROXY
        options = {"now": now, "limits": limits_of(limits), "timeouts": timeouts_of(timeouts)}
        self._handle = calls.new("connection.Connection", agreement_of(agreement), options)
        self.features = agreement.features
        self.line = WebLine(self._handle)

    @property
    def ended(self) -> ConnectionEnded | None:
        return over_of(self._handle.get("ended"))

    @property
    def streams(self) -> dict[int, WebStreamState]:
        return {number: WebStreamState(state) for number, state in self._handle.get("streams")}

    def receive_message(self, message: bytes, now: float) -> list[Event]:
        return [event_of(event) for event in self._handle.call("receiveMessage", message, now)]

    def next_timer(self) -> float | None:
        return cast("float | None", self._handle.call("nextTimer"))

    def handle_timer(self, now: float) -> list[Event]:
        return [event_of(event) for event in self._handle.call("handleTimer", now)]

    def message_to_send(self, pipe: int = 0, *, size: int = MAX_MESSAGE) -> bytes | None:
        return cast("bytes | None", self._handle.call("messageToSend", pipe, size))

    def take_writable(self) -> list[int]:
        return cast("list[int]", self._handle.call("takeWritable"))

    def is_open(self, stream: int) -> bool:
        return bool(self._handle.call("isOpen", stream))

    def open_stream(self, head: RequestHead, *, ended: bool = False) -> int:
        try:
            return cast(int, self._handle.call("openStream", head_of(head), {"ended": ended}))
        except JsError as exc:
            if exc.name == "TooManyStreams":
                raise TooManyStreams(exc.message) from exc
            assert exc.name == "ProtocolError"
            raise ProtocolError(exc.message, code=ErrorCode(exc.code)) from exc

    def send_data(self, stream: int, data: memoryview) -> int:
        return cast(int, self._handle.call("sendData", stream, data))

    def send_end(self, stream: int) -> None:
        self._handle.call("sendEnd", stream)

    def reset(self, stream: int, code: ErrorCode, message: str) -> None:
        self._handle.call("reset", stream, code, message)

    def consumed(self, stream: int, size: int) -> None:
        self._handle.call("consumed", stream, size)

    def close_client(self, client: int) -> None:
        self._handle.call("closeClient", client)

    def close(self, code: ErrorCode, message: str) -> None:
        self._handle.call("close", code, message)


class WebStreamState:
    """What tests ask a stream's state about."""

    def __init__(self, state: Handle) -> None:
        self._state = state
        self.tx = self

    @property
    def state(self) -> State:
        return State(self._state.get("tx.state"))


class WebLine:
    """`protocol.line.Line` of a proxy, and its `outbox`."""

    def __init__(self, connection: Handle) -> None:
        self._connection = connection
        self.lanes: int = connection.get("line.lanes")
        self.outbox = self

    def __bool__(self) -> bool:
        return bool(self._connection.get("line.outbox.waiting"))

    @property
    def pipes(self) -> int:
        return cast(int, self._connection.get("line.outbox.pipes"))

    def split(self, pipes: int) -> None:
        self._connection.call("line.outbox.split", pipes)

    @property
    def resumable(self) -> bool:
        return bool(self._connection.get("line.resumable"))

    @property
    def rtt(self) -> float | None:
        return cast("float | None", self._connection.get("line.rtt"))

    @property
    def last_heard(self) -> float:
        return cast(float, self._connection.get("line.lastHeard"))

    @property
    def sent(self) -> tuple[int, ...]:
        return tuple(self._connection.get("line.sent"))

    @property
    def journals(self) -> list[WebJournal]:
        return [WebJournal(self._connection, lane) for lane in range(len(self.sent))]

    def confirms(self, sent: tuple[int, ...]) -> bool:
        return bool(self._connection.call("line.confirms", sent))

    def measure(self, now: float) -> None:
        self._connection.call("line.measure", now)

    def suspect(self) -> None:
        self._connection.call("line.suspect")

    def suspend(self) -> None:
        self._connection.call("line.suspend")

    def offer(self, certificate: bytes) -> ResumeOffer | None:
        offered = self._connection.call("line.offer", certificate)
        return offered and ResumeOffer(session=offered["session"], received=tuple(offered["received"]))

    def resume(self, agreement: Agreement, now: float, *, pipes: int = 1) -> None:
        try:
            self._connection.call("line.resume", agreement_of(agreement), now, {"pipes": pipes})
        except JsError as exc:
            assert exc.name == "ProtocolError", exc
            raise ProtocolError(exc.message, code=ErrorCode(exc.code)) from exc


class WebJournal:
    """The size of a lane's journal."""

    def __init__(self, connection: Handle, lane: int) -> None:
        self._connection, self._lane = connection, lane

    @property
    def size(self) -> int:
        return cast(int, self._connection.get("line.journalSizes")[self._lane])


def agreement_of(agreement: Agreement) -> dict[str, object]:
    ticket = agreement.ticket
    return {
        "features": agreement.features,
        "window": agreement.window,
        "streams": agreement.streams,
        "ticket": ticket and {"id": ticket.id, "key": ticket.key},
        "certificate": agreement.certificate,
        "session": agreement.session,
        "received": agreement.received,
        "lanes": agreement.lanes,
        "tcpOnly": agreement.tcp_only,
    }


def greeting_of(calls: Calls) -> Any:
    """A stand-in for the class `Greeting`: the proxy's is in JavaScript, and serve's in Python."""

    def make(role: Role, **settings: Any) -> Any:
        return WebGreeting(calls, **settings) if role is Role.PROXY else Greeting(role, **settings)

    return make


def connection_of(calls: Calls) -> Any:
    """The same for `Connection`."""

    def make(role: Role, agreement: Agreement, **settings: Any) -> Any:
        if role is Role.PROXY:
            return WebConnection(calls, agreement, **settings)
        return Connection(role, agreement, **settings)

    return make
