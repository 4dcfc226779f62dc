"""Every exception that llmtunnel raises, and nothing else.

TunnelError                     what a user may catch; its text is a sentence, its hint says what to do next
├── SettingError                a flag, an argument or an environment variable cannot be used (exit 2)
│   ├── AddressInUse            the address to listen on is taken; knows the next free port
│   └── UpstreamNotFound        no model server was found, or more than one (exit 2)
├── SignalError                 the signal server
│   ├── SignalUnreachable       it does not answer
│   ├── SignalRejected          it answered with an error
│   └── RoomFull                the room has no place for this member
├── PeerError                   the other side of the tunnel
│   ├── PeerNotFound            nobody is in the room, or it does not connect in time
│   ├── ConnectFailed           offer and answer were exchanged, but no path came up
│   ├── VersionMismatch         it speaks no version that we speak (exit 4)
│   ├── AuthenticationFailed    one side does not hold the secret, or somebody is in between (exit 3)
│   ├── Unwelcome               serve does not let us in: put out, or the invite has ended (exit 3)
│   └── PeerLost                the connection to it broke
├── StreamError                 one HTTP exchange on a session that goes on
│   ├── StreamReset             the other side, or the protocol, ended it before it was whole
│   └── TooManyStreams          no more may be opened now
├── UpstreamError               the HTTP service behind serve
│   ├── UpstreamUnreachable     it does not accept a connection
│   └── UpstreamBroken          it answered something that is not HTTP, or broke off
├── ProtocolError               a peer broke the protocol: never shown to a caller, mapped to a reset or a close
├── ChannelClosed               the message channel under a session is gone
└── WaitTimeout                 a blocking call ran out of its ``timeout=``
"""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Self

__all__ = [
    "AddressInUse",
    "AuthenticationFailed",
    "ChannelClosed",
    "ConnectFailed",
    "ErrorCode",
    "PeerError",
    "PeerLost",
    "PeerNotFound",
    "ProtocolError",
    "RoomFull",
    "SettingError",
    "SignalError",
    "SignalRejected",
    "SignalUnreachable",
    "StreamError",
    "StreamReset",
    "TooManyStreams",
    "TunnelError",
    "Unwelcome",
    "UpstreamBroken",
    "UpstreamError",
    "UpstreamNotFound",
    "UpstreamUnreachable",
    "VersionMismatch",
    "WaitTimeout",
]


class ErrorCode(IntEnum):
    """Why a stream or a session ended, as RESET carries it (protocol/README.md, "Error codes")."""

    NO_ERROR = 0
    """An orderly end of a session: the process stops."""
    CANCELLED = 1
    """The client went away, or the application gave the exchange up."""
    PROTOCOL = 2
    """A frame broke the protocol."""
    FLOW_CONTROL = 3
    """More was sent than credit allowed, or a v1 reader lagged too far behind."""
    REFUSED = 4
    """Not accepted: too many streams, or the peer is stopping. Nothing was done with the request."""
    UPSTREAM = 5
    """The upstream broke off, or answered something that is not HTTP."""
    TRUNCATED = 6
    """A body ended early: fewer or more bytes than its end told."""
    TOO_LARGE = 7
    """A head does not fit a frame."""
    VERSION = 8
    """No common protocol version."""
    INTERNAL = 9
    """A defect on the sender's side."""
    UNAUTHENTICATED = 10
    """It is not proven that both hold the same secret."""
    UNWELCOME = 11
    """Known, and not let in: put out, or the invite has ended."""


class TunnelError(Exception):
    """Something about the tunnel failed; ``str()`` is one sentence, ``hint`` says what to do next.

    A traceback ends with both. IPython shows both in place of a traceback. There, ``%tb Plain`` shows the whole
    traceback of the last error, and after ``%xmode Plain`` each error shows its own. Verbose in place of Plain shows
    the values of variables too: codes and keys are among them, and a notebook saves them.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if hint:
            self.add_note(hint)

    @property
    def message(self) -> str:
        """The sentence, without the hint."""
        return str(self.args[0])

    def again(self) -> Self:
        """Return a copy to raise, where one error is kept and raised more than once.

        Each raise adds the frames that it passes to the exception's traceback, which keeps those frames alive. The
        copy collects them, and the error that is kept does not grow, whichever tasks and threads raise it.
        """
        copy = type(self).__new__(type(self), *self.args)
        copy.args = self.args  # OSError, which `WaitTimeout` is too, takes none in __new__
        copy.__dict__.update(self.__dict__)
        if notes := getattr(self, "__notes__", None):
            copy.__notes__ = [*notes]  # a note on the copy is not one on the error that is kept
        copy.__cause__, copy.__suppress_context__ = self.__cause__, self.__suppress_context__
        return copy

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows: message and hint, or in its modes Plain and Verbose the traceback."""
        tracebacks = sys.modules["IPython"].get_ipython().InteractiveTB
        if tracebacks.mode in ("Plain", "Verbose"):
            lines: list[str] = tracebacks.structured_traceback(type(self), self, self.__traceback__)
            if not any(self.hint in line for line in lines):  # IPython 7, Colab's, shows no notes
                lines.append(self.hint)
            return lines
        return [f"{type(self).__name__}: {self.message}", *self.hint.splitlines()]


class SettingError(TunnelError):
    """A setting cannot be used."""

    exit_code = 2


class AddressInUse(SettingError):
    """The address to listen on is taken."""

    def __init__(self, address: str, *, next_free: int | None, own: bool = False) -> None:
        user, stop = "another program or tunnel", "stop the program that uses it"
        if own:
            user, stop = "another proxy of this process", "close that one: %tunnel stop all closes all of them"
        hint = "Choose another port with --listen (in Python: listen=)"
        if next_free:
            hint = f"Use --listen {next_free} (in Python: listen={next_free})"
        super().__init__(f"{address} is in use by {user}.", hint=f"{hint}, or {stop}.")
        self.address = address
        self.next_free = next_free


class UpstreamNotFound(SettingError):
    """No model server was found on this machine, or more than one."""


class SignalError(TunnelError):
    """The signal server failed."""


class SignalUnreachable(SignalError):
    """The signal server does not answer."""


class SignalRejected(SignalError):
    """The signal server answered with an error."""


class RoomFull(SignalError):
    """The room has no place for this member."""


class PeerError(TunnelError):
    """The other side of the tunnel failed."""


class PeerNotFound(PeerError):
    """Nobody is in the room, or nobody could be reached in time."""


class ConnectFailed(PeerError):
    """No network path to the peer came up."""


class VersionMismatch(PeerError):
    """The peer speaks no protocol version that this program speaks."""

    exit_code = 4


class AuthenticationFailed(PeerError):
    """One side does not hold the secret, or somebody is in between."""

    exit_code = 3


class Unwelcome(PeerError):
    """Serve does not let this proxy in."""

    exit_code = 3


class PeerLost(PeerError):
    """The connection to the peer broke."""


class StreamError(TunnelError):
    """One HTTP exchange failed; the session goes on."""


class StreamReset(StreamError):
    """The exchange ended before it was whole; ``code`` says why and ``remote`` who ended it."""

    def __init__(self, code: ErrorCode, message: str, *, remote: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.remote = remote


class TooManyStreams(StreamError):
    """No more streams may be opened on this session now."""


class UpstreamError(TunnelError):
    """The HTTP service behind serve failed."""


class UpstreamUnreachable(UpstreamError):
    """The upstream does not accept a connection. ``absent``: nothing answers there, as where it is not running.

    ``ours``: what serve itself lacks for one.
    """

    def __init__(self, message: str, *, hint: str = "", absent: bool = False, ours: str = "") -> None:
        super().__init__(message, hint=hint)
        self.absent = absent
        self.ours = ours


class UpstreamBroken(UpstreamError):
    """The upstream answered something that is not HTTP, or broke off."""


class ProtocolError(TunnelError):
    """A peer broke the protocol. ``code`` is what RESET will carry."""

    def __init__(self, message: str, *, code: ErrorCode = ErrorCode.PROTOCOL) -> None:
        super().__init__(message)
        self.code = code


class ChannelClosed(TunnelError):
    """The message channel under a session is gone."""


class WaitTimeout(TunnelError, TimeoutError):
    """A blocking call ran out of its ``timeout=``."""
