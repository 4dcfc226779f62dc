"""What a channel is: a reliable, ordered pipe of binary messages between two peers, over whatever carries it.

A channel calls its receiver, as an asyncio transport calls its protocol; it is used from one event loop only.
It never queues more than it says: `has_room` tells whether `send` may be called, `room_available` when again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from ..paths import Path
from .networks import around

MAX_MESSAGE = 65_536
"""Bytes in one message, at most: the ``max-message-size`` that aiortc and the original announce."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What ties an authentication to this very channel: the certificates at its ends, as SHA-256 of their DER."""

    local: bytes
    """Of the one that we showed, 32 bytes."""
    remote: bytes
    """Of the one that the other end proved to hold the key of, 32 bytes."""


class Receiver(Protocol):
    """What a channel calls. None of these may raise or block."""

    def message_received(self, message: bytes) -> None:
        """A whole message came."""

    def room_available(self) -> None:
        """`Channel.has_room` is true again after it was false."""

    def channel_closed(self, reason: str) -> None:
        """The channel is gone, once, as the last call; ``reason`` is for people."""


class Channel(ABC):
    """One open channel. Messages that came before `attach` are kept for the receiver."""

    @abstractmethod
    def attach(self, receiver: Receiver) -> None:
        """Deliver to ``receiver`` from now on, beginning with what has already come; called once."""

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether `send` may be called: the queue below is short, and the channel open."""

    @abstractmethod
    def send(self, message: bytes) -> None:
        """Queue one message of 1 to `MAX_MESSAGE` bytes. Raises `ChannelClosed` where the channel is gone."""

    @abstractmethod
    async def aclose(self) -> None:
        """Send what is queued if that is quickly done, then close; idempotent. The receiver hears of it."""

    @property
    @abstractmethod
    def path(self) -> Path:
        """How packets travel now."""

    @property
    def binding(self) -> Binding | None:
        """The certificates at both ends; None where the channel has none, so that nobody can be authenticated on it."""
        return None

    @property
    def address(self) -> str:
        """``host:port`` of the other end, for people; empty where it has none."""
        return ""

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that the other end is in, as far as this side can tell, the widest first.

        All who come through the relay are in one, since it does not say where they are.
        """
        return (str(self.path),) if self.path is Path.RELAY else around(self.address)

    def trust(self) -> None:
        """The peer has been let in: from now on it may cost more than a stranger may."""
        return


class Way(ABC):
    """How a channel to one member is opened. `open` once; `aclose` once, in any case and also while it opens."""

    name: str
    """For people."""
    on_demand = False
    """It opens only when it is needed."""

    @abstractmethod
    async def open(self) -> Channel:
        """The open channel. Raises `ConnectFailed`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close all that there is of it, at once where the channel was not closed in order."""
