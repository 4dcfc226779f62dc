"""What a connection tells of what came: the language between the wire and the session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ErrorCode
from .heads import RequestHead, ResponseHead


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """Serve: a stream was opened."""

    stream: int
    head: RequestHead


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """Proxy: a response's head came, an interim one perhaps."""

    stream: int
    head: ResponseHead


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Body bytes came; `Connection.consumed` is owed for them."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class EndReceived:
    """The peer's half ended, whole."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream was reset: by the peer, or (not ``remote``) by us because the peer broke the protocol."""

    stream: int
    code: ErrorCode
    message: str
    remote: bool


@dataclass(frozen=True, slots=True)
class RestUnwanted:
    """Proxy: serve has answered in full and will not read the rest of the request; the response stands."""

    stream: int


@dataclass(frozen=True, slots=True)
class ClientClosed:
    """Serve: the client connection whose first stream had this id has closed; no request of it will follow."""

    client: int


@dataclass(frozen=True, slots=True)
class Told:
    """A frame of the session came that has a `frames.Codec`, and so says something to the application alone."""

    type: int
    value: Any
    """What its codec makes of the payload."""


@dataclass(frozen=True, slots=True)
class PeerSilent:
    """Nothing comes any more on a channel of a session that can go on with another one, or when something does."""


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """The session is over: nothing more will come or be sent, but for a last message."""

    code: ErrorCode
    message: str
    remote: bool


Event = (
    RequestReceived
    | ResponseReceived
    | DataReceived
    | EndReceived
    | StreamEnded
    | RestUnwanted
    | ClientClosed
    | PeerSilent
    | Told
    | ConnectionEnded
)
