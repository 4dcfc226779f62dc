"""What a connection reports: the events between the protocol and the session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ErrorCode
from .heads import RequestHead, ResponseHead


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """Serve: the proxy has opened a stream."""

    stream: int
    head: RequestHead


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """Proxy: a response's head has arrived, perhaps an interim one."""

    stream: int
    head: ResponseHead


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Body bytes have arrived. Call `Connection.consumed` for them later."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class EndReceived:
    """The peer's half has ended, and is complete."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream was reset: by the peer, or (``remote`` is false) by us, because the peer broke the protocol."""

    stream: int
    code: ErrorCode
    message: str
    remote: bool


@dataclass(frozen=True, slots=True)
class RestUnwanted:
    """Proxy: serve has answered completely and will not read the rest of the request. The response is valid."""

    stream: int


@dataclass(frozen=True, slots=True)
class ClientClosed:
    """Serve: the client connection whose first stream had this id has closed. It sends no further request."""

    client: int


@dataclass(frozen=True, slots=True)
class Told:
    """A frame of the session that has a `frames.Codec` has arrived. It concerns only the application."""

    type: int
    value: Any
    """The payload as decoded by the codec."""


@dataclass(frozen=True, slots=True)
class PeerSilent:
    """The channel is silent. The session can continue over another channel, or when this one speaks again."""


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """The session has ended. Nothing more is received, and only a last message is sent."""

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
