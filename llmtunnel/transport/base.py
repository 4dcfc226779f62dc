"""The interface of a channel: a reliable, ordered pipe of binary messages between two peers, over any carrier.

A channel calls its receiver as an asyncio transport calls its protocol. Use it from one event loop only. It never
queues more than it says: `has_room` is true while `send` may be called, and `room_available` reports it anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from ..paths import Path
from .networks import around

MAX_MESSAGE = 65_536
"""Maximum bytes in one message: the ``max-message-size`` that aiortc and the original announce."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """The certificates at both ends of a channel, as SHA-256 of their DER.

    They tie an authentication to this channel. A sealed pipe (`sealed`) has none: there, both are the hash of its
    handshake.
    """

    local: bytes
    """That of our certificate, 32 bytes."""
    remote: bytes
    """That of the certificate whose key the other end has proven to hold, 32 bytes."""
    certified: bool = True
    """Whether these are certificates. If not, the peer has to identify itself otherwise."""

    @property
    def certificate(self) -> bytes:
        """``remote`` if it is that of a certificate; otherwise empty."""
        return self.remote if self.certified else b""


class Receiver(Protocol):
    """The callbacks of a channel. None of these may raise or block."""

    def message_received(self, message: bytes) -> None:
        """Accept a complete message."""

    def room_available(self) -> None:
        """Note that `Channel.has_room`, or `Channel.takes` of a pipe, is true again after it was false."""

    def channel_closed(self, reason: str) -> None:
        """Note that the channel has closed. This is the last call, and happens once. ``reason`` is for people."""


class Channel(ABC):
    """One open channel. It keeps messages that arrive before `attach` for the receiver.

    A channel is one pipe until `split`. The messages of one pipe keep their order. The receiver does not learn which
    pipe a message came through.
    """

    @abstractmethod
    def attach(self, receiver: Receiver) -> None:
        """Deliver to ``receiver`` from now on, beginning with what has already arrived. Call this once."""

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether `send` may be called: the queue below is short, and the channel is open."""

    def takes(self, pipe: int) -> bool:
        """Return `has_room` for one of the channel's pipes. No pipe waits for another one."""
        return self.has_room

    def split(self, lanes: int, *, opens: bool) -> int:
        """Give each lane a pipe of its own if the channel can, and return how many pipes there are now.

        The existing pipe is the first. Call this once, when both peers have agreed. ``opens``: whether this side opens
        the others.
        """
        return 1

    @property
    def message_size(self) -> int:
        """Maximum bytes that a message should have, so that it does not delay another pipe for long."""
        return MAX_MESSAGE

    @abstractmethod
    def send(self, message: bytes, pipe: int = 0) -> None:
        """Queue one message of 1 to `MAX_MESSAGE` bytes. Raises `ChannelClosed` if the channel has closed."""

    @abstractmethod
    async def aclose(self) -> None:
        """Send what is queued if that is quick, then close. Idempotent. This calls `Receiver.channel_closed`."""

    @property
    @abstractmethod
    def path(self) -> Path:
        """How packets travel now."""

    @property
    def binding(self) -> Binding | None:
        """The certificates at both ends, or None if the channel has none. Then no peer can be authenticated on it."""
        return None

    @property
    def address(self) -> str:
        """``host:port`` of the other end, for people; empty if it has none."""
        return ""

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that the other end is in, as far as this side can tell, the widest first.

        All peers that come through the relay are in one, since the relay does not say where they are.
        """
        return (str(self.path),) if self.path is Path.RELAY else around(self.address)

    @property
    def passed(self) -> tuple[int, int] | None:
        """How many packets this end has sent, and how many of them it considers lost; None if only TCP knows.

        A packet that was late counts as lost. The other end's packets do not count.
        """
        return None

    def trust(self, *, page: bool = False) -> None:
        """Note that the peer has been authenticated or accepted. ``page``: it is a page in a browser.

        From now on it may use more resources than a stranger.
        """
        return


class Way(ABC):
    """How to open a channel to one member. Call `open` once, and `aclose` once in any case, even while it opens."""

    name: str
    """The name for people."""
    on_demand = False
    """Whether the way opens only when it is needed."""

    @abstractmethod
    async def open(self) -> Channel:
        """Open and return the channel. Raises `ConnectFailed`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close everything that belongs to it, at once if the channel was not closed in order."""
