"""Every exception that llmtunnel raises, and nothing else.

TunnelError                     any failure; its text is a sentence, and its hint says what to do
├── SettingError                a flag, an argument or an environment variable is invalid (exit 2)
│   ├── AddressInUse            the address to listen on is in use; knows the next free port
│   └── UpstreamNotFound        no model server was found, or more than one (exit 2)
├── SignalError                 the signal server failed
│   ├── SignalUnreachable       it does not answer
│   ├── SignalRejected          it answered with an error
│   │   └── AccessDenied        it is private, and does not accept our access token (exit 3)
│   ├── SignalRestarting        it restarts, and asks this side to connect again
│   └── RoomFull                the room has no place for this member
├── PeerError                   the other side of the tunnel failed
│   ├── PeerNotFound            nobody is in the room, or the peer did not connect in time
│   ├── ConnectFailed           offer and answer were exchanged, but no path works
│   ├── VersionMismatch         the peer supports no common version (exit 4)
│   ├── AuthenticationFailed    one side does not hold the secret, or somebody is in the middle (exit 3)
│   ├── Unwelcome               serve rejects this proxy: it was kicked, or the invite has expired (exit 3)
│   └── PeerLost                the connection to the peer broke
├── StreamError                 one request failed; the session continues
│   ├── StreamReset             the other side, or the protocol, ended the request before it was complete
│   └── TooManyStreams          no more requests may start now
├── UpstreamError               the HTTP service behind serve failed
│   ├── UpstreamUnreachable     it does not accept a connection
│   └── UpstreamBroken          it sent something that is not HTTP, or broke off
├── ProtocolError               a peer violated the protocol; becomes a reset or a close, and never reaches a caller
├── ChannelClosed               the message channel under a session has closed
└── WaitTimeout                 a blocking call exceeded its ``timeout=``
"""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Self

__all__ = [
    "AccessDenied",
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
    "SignalRestarting",
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
    """The session ends in an orderly way: the process stops."""
    CANCELLED = 1
    """The client disconnected, or the application abandoned the request."""
    PROTOCOL = 2
    """A frame violated the protocol."""
    FLOW_CONTROL = 3
    """The peer sent more than its credit, or a v1 reader is too far behind."""
    REFUSED = 4
    """Not accepted: too many streams, or the peer is stopping. The request was not processed."""
    UPSTREAM = 5
    """The upstream broke off, or sent something that is not HTTP."""
    TRUNCATED = 6
    """A body has fewer or more bytes than its end frame says."""
    TOO_LARGE = 7
    """A head does not fit into a frame."""
    VERSION = 8
    """The peers have no common protocol version."""
    INTERNAL = 9
    """An internal error of the sender."""
    UNAUTHENTICATED = 10
    """The peers have not proven that both hold the same secret."""
    UNWELCOME = 11
    """The peer is known and rejected: it was kicked, or the invite has expired."""


class TunnelError(Exception):
    """A failure of the tunnel. ``str()`` is one sentence, and ``hint`` says what to do.

    A traceback ends with both. IPython shows both instead of a traceback. There, ``%tb Plain`` shows the traceback of
    the last error, and after ``%xmode Plain`` each error shows its own. The mode Verbose also shows the values of
    variables: they include codes and keys, and a notebook saves them.
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
        """Return a copy to raise, for an error that is kept and raised more than once.

        Each raise adds frames to the exception's traceback, which keeps those frames alive. The copy collects them, so
        the kept error does not grow, whichever tasks and threads raise it.
        """
        copy = type(self).__new__(type(self), *self.args)
        copy.args = self.args  # OSError, a base of `WaitTimeout`, ignores them in __new__
        copy.__dict__.update(self.__dict__)
        if notes := getattr(self, "__notes__", None):
            copy.__notes__ = [*notes]  # so that a note on the copy does not appear on the kept error
        copy.__cause__, copy.__suppress_context__ = self.__cause__, self.__suppress_context__
        return copy

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows: message and hint, or the traceback in its modes Plain and Verbose."""
        tracebacks = sys.modules["IPython"].get_ipython().InteractiveTB
        if tracebacks.mode in ("Plain", "Verbose"):
            lines: list[str] = tracebacks.structured_traceback(type(self), self, self.__traceback__)
            if not any(self.hint in line for line in lines):  # IPython 7, as on Colab, shows no notes
                lines.append(self.hint)
            return lines
        return [f"{type(self).__name__}: {self.message}", *self.hint.splitlines()]


class SettingError(TunnelError):
    """A setting is invalid."""

    exit_code = 2


class AddressInUse(SettingError):
    """The address to listen on is in use."""

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


class AccessDenied(SignalRejected):
    """The signal server is private, and we sent no access token, or one that it does not accept."""

    exit_code = 3


class SignalRestarting(SignalError):
    """The signal server restarts, and asks this side to connect again."""


class RoomFull(SignalError):
    """The room has no place for this member."""


class PeerError(TunnelError):
    """The other side of the tunnel failed."""


class PeerNotFound(PeerError):
    """Nobody is in the room, or no peer could be reached in time."""


class ConnectFailed(PeerError):
    """No network path to the peer works."""


class VersionMismatch(PeerError):
    """The peer supports no protocol version that this program supports."""

    exit_code = 4


class AuthenticationFailed(PeerError):
    """One side does not hold the secret, or somebody is in the middle."""

    exit_code = 3


class Unwelcome(PeerError):
    """Serve rejects this proxy: it was kicked, or the invite has expired."""

    exit_code = 3


class PeerLost(PeerError):
    """The connection to the peer broke."""


class StreamError(TunnelError):
    """One request failed; the session continues."""


class StreamReset(StreamError):
    """The request ended before it was complete. ``code`` says why; ``remote`` is true if the peer ended it."""

    def __init__(self, code: ErrorCode, message: str, *, remote: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.remote = remote


class TooManyStreams(StreamError):
    """The session cannot open more streams now."""


class UpstreamError(TunnelError):
    """The HTTP service behind serve failed."""


class UpstreamUnreachable(UpstreamError):
    """The upstream does not accept a connection.

    ``absent`` is true if nothing listens there, for example because the service is not running. ``ours`` names what
    serve itself lacks for a connection.
    """

    def __init__(self, message: str, *, hint: str = "", absent: bool = False, ours: str = "") -> None:
        super().__init__(message, hint=hint)
        self.absent = absent
        self.ours = ours


class UpstreamBroken(UpstreamError):
    """The upstream sent something that is not HTTP, or broke off."""


class ProtocolError(TunnelError):
    """A peer violated the protocol. RESET will carry ``code``."""

    def __init__(self, message: str, *, code: ErrorCode = ErrorCode.PROTOCOL) -> None:
        super().__init__(message)
        self.code = code


class ChannelClosed(TunnelError):
    """The message channel under a session has closed."""


class WaitTimeout(TunnelError, TimeoutError):
    """A blocking call exceeded its ``timeout=``."""
