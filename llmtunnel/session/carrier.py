"""One channel to a peer, from its first message to its end: the greeting on it, then the session that it carries.

A session may move to another channel. A channel has one carrier, which stays its receiver. Once the session has left
the carrier, the carrier ignores everything that arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from .. import version
from ..errors import (
    AuthenticationFailed,
    ChannelClosed,
    ErrorCode,
    PeerError,
    PeerLost,
    TunnelError,
    Unwelcome,
    VersionMismatch,
)
from ..protocol.auth import NO_KEY, NONE_GIVEN, NOT_ITS_KEY, NOT_THE_SAME, SPARED, TOO_MANY
from ..protocol.frames import Feature
from ..protocol.greeting import Greeting
from ..protocol.handshake import Agreement
from ..status import Role
from ..transport.base import Channel, Receiver
from ..transport.tasks import finish

AGENT = f"llmtunnel/{version.__version__}"
FAREWELL = "The peer stops."
NOT_PROVEN: Final = "If it is the same, somebody may be between the two of you: use another signal server."
COMPARE: Final = f"Compare the code with the one that serve shows. {NOT_PROVEN}"
_FOR_USERS: Final = {
    NOT_THE_SAME: "Wrong code: it does not match the one that serve shows.",
    TOO_MANY: "No serve in this room has proven that it knows the code. This proxy stops before somebody can guess it.",
    "Serve asks for no secret, and this proxy was given one.": "This proxy has a code or a secret, and serve has none.",
    "Serve takes this proxy for one that comes back.": "Serve mistakes this proxy for another one.",
    "The other side's share of the key exchange is none.": "The other side has sent an invalid key.",
    NONE_GIVEN: "Serve asks for a code or a secret, and this proxy has none.",
    NOT_ITS_KEY: "Serve does not accept this page's key.",
    NO_KEY: "This page has shown no key to serve.",
    "Serve has put this proxy out.": "Serve has removed and blocked this proxy.",
    "The invite was for one proxy, and one has come in.": "The code is for one proxy only, and one has used it.",
    "The invite or secret has been changed.": "Serve has a new code.",
    "The invite has expired.": "The code has expired.",
    FAREWELL: "The other side has stopped.",
}
"""What users read instead of a text from the wire, whichever side has sent it."""
_SERVES: Final = {
    NOT_THE_SAME: "A proxy has a wrong code: it does not match the one that is shown here.",
    NONE_GIVEN: "A proxy without a code or a secret has tried to connect.",
    NOT_ITS_KEY: "A page in a browser has claimed a key that is not its own.",
    NO_KEY: "A page in a browser has shown no key.",
    SPARED: "A doctor or a bench has tested the connection, and has not used up the code.",
}
"""The same for users of serve, where the text differs."""
_HINTS: Final = {NOT_THE_SAME: NOT_PROVEN, NONE_GIVEN: "The proxy needs the code that serve shows."}
"""What to do if comparing the codes does not help."""


class Carrier:
    """Greet on a channel after `start`, then call ``agreed``, which makes a session and passes it to `carry`."""

    def __init__(self, channel: Channel, greeting: Greeting, *, agreed: Callable[[Carrier, Agreement], None]) -> None:
        self.channel = channel
        self.settled = asyncio.Event()
        """Set once the peers have agreed, or never will."""
        self.greeting = greeting
        """What the two sides say before there is a session."""
        self._agreed = agreed
        self._session: Receiver | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._over: asyncio.Future[TunnelError] = self._loop.create_future()

    def start(self) -> None:
        """Start the greeting."""
        self.channel.attach(self)
        self._flush()

    def carry(self, session: Receiver) -> None:
        """Let this session send and receive on the channel from now on."""
        self._session = session
        self.settled.set()
        agreement = self.greeting.agreement
        self.channel.trust(page=agreement is not None and Feature.IDENTITY in agreement.features)

    def refuse(self) -> None:
        """Tell a peer that has moved to this channel that its session has ended. It hears of that nowhere else."""
        self.greeting.close(ErrorCode.NO_ERROR, FAREWELL)
        self._flush()

    @property
    def error(self) -> TunnelError | None:
        """Why nothing more will arrive, or None while something may."""
        return self._over.result() if self._over.done() else None

    async def wait_over(self) -> TunnelError:
        """Wait until nothing more can arrive, and return why: no agreement, the channel's end, or our own decision."""
        return await asyncio.shield(self._over)

    def leave(self, reason: str) -> None:
        """Ignore everything that arrives from now on, and report the channel's end to nobody. Idempotent."""
        self._end(PeerLost(reason))

    async def aclose(self, *, stopping: bool = False) -> None:
        """Close the channel in order, and abandon a greeting. Idempotent.

        ``stopping``: the session that the greeting asks to resume has ended. Serve may have moved it to this channel.
        """
        if self._session is None and self.greeting.next_timer() is not None:
            give_up = self.greeting.close if stopping else self.greeting.break_off
            give_up(ErrorCode.NO_ERROR, FAREWELL)
            self._flush()
        self.leave(FAREWELL)
        if self._closing is None:
            self._closing = asyncio.create_task(finish(self.channel.aclose), name="closing a channel")
        await asyncio.shield(self._closing)

    # -- called by the channel

    def message_received(self, message: bytes) -> None:
        """See `transport.base.Receiver`."""
        if self._session is not None:
            self._session.message_received(message)
        elif not self._over.done():
            self.greeting.receive_message(message, self._loop.time())
            self._flush()

    def room_available(self) -> None:
        """See `transport.base.Receiver`."""
        if self._session is not None:
            self._session.room_available()

    def channel_closed(self, reason: str) -> None:
        """See `transport.base.Receiver`."""
        session = self._session
        self._end(PeerLost(f"The connection to the peer closed: {reason}"))
        if session is not None:
            session.channel_closed(reason)

    # -- the greeting

    def _flush(self) -> None:
        """Send what the greeting has to say, and act on its result. This does not wait for room, since it is little."""
        try:
            while (message := self.greeting.message_to_send()) is not None:
                self.channel.send(message)
        except ChannelClosed as exc:
            self._end(PeerLost(f"The connection to the peer closed: {exc}"))
            return
        if ended := self.greeting.ended:
            role = self.greeting.role
            self._end(session_error(ended.code, ended.message, remote=ended.remote, role=role))
        elif agreement := self.greeting.agreement:
            self._stop_timer()
            self._agreed(self, agreement)
        else:
            self._set_timer()

    def _on_timer(self) -> None:
        self._timer = None
        self.greeting.handle_timer(self._loop.time())
        self._flush()

    def _set_timer(self) -> None:
        self._stop_timer()
        if (when := self.greeting.next_timer()) is not None:
            self._timer = self._loop.call_at(when, self._on_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, error: TunnelError) -> None:
        """End the carrier. The first reason counts."""
        self._session = None
        self.settled.set()
        self._stop_timer()
        if self._over.done():
            return
        if self.greeting.was_guessed and isinstance(error, PeerLost):
            message = f"The other side has not proven that it knows the code. {error.message}"
            error = AuthenticationFailed(message, hint=COMPARE)
        self._over.set_result(error)


def session_error(code: ErrorCode, message: str, *, remote: bool, role: Role) -> PeerError:
    """Return what the last message of the peer, or ours to it, means to the user on the side ``role``."""
    known = (_SERVES.get(message) if role is Role.SERVE else None) or _FOR_USERS.get(message)
    # The peer may write anything here, whoever it is. Users must not take its text for ours.
    told = known or (f"The other side says: {message}" if remote else message)
    match code:
        case ErrorCode.VERSION:
            return VersionMismatch(told, hint="Install the same version of llmtunnel on both sides.")
        case ErrorCode.UNAUTHENTICATED:
            return AuthenticationFailed(told, hint=_HINTS.get(message, COMPARE))
        case ErrorCode.UNWELCOME:
            return Unwelcome(told, hint="Ask the person who runs serve for a new code.")
    return PeerLost(known or f"The session ended: {message}")
