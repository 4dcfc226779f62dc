"""This process's file descriptors: the standard ones, how many there may be, and which ones a child must not keep."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from typing import Any, Final, Protocol, TextIO
from weakref import WeakSet

ENOUGH: Final = 65_536
"""Descriptors that the command line asks for: far more than `config.Limits` lets it use; some systems have no limit."""
_MACOS: Final = 10_240
"""macOS takes no soft limit above its OPEN_MAX, whatever the hard limit says (setrlimit(2) there)."""
RAISE_IT: Final = "Raise the limit, for example with `ulimit -n 65536`, or use fewer connections at once."

_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE})


def open_standard() -> None:
    """Open what is closed of standard input, output and error, for the command line: its first act.

    Otherwise the next file or socket would take that number, and get what is printed. Standard input then ends at once,
    and standard error takes everything. Writing to standard output fails, so that a command whose output matters says
    that it was lost.
    """
    streams = (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_RDWR))
    for number, (name, mode, flags) in enumerate(streams):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number: those below are open
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def write(stream: TextIO, text: str) -> OSError | None:
    """Write a text at once, and return what failed.

    What is left of it then is dropped: Python would try again as the process ends, with a traceback and a status of its
    own.
    """
    try:
        stream.write(text)
        stream.flush()
    except OSError as exc:
        with suppress(OSError):  # a stream of another kind than the standard ones
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        return exc
    return None


def same(one: TextIO, other: TextIO) -> bool:
    """Whether both streams write to the same terminal, file or pipe."""
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # one is closed, or no real file
        return False


def raise_limit() -> None:
    """Let this process have as many descriptors as its hard limit permits, up to `ENOUGH`. For processes of our own."""
    try:
        import resource
    except ImportError:  # Windows, whose limit does not concern sockets
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (ENOUGH, _MACOS):
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return


def shortage(exc: BaseException | None = None) -> str:
    """Say that this process, or the machine, is out of descriptors, where ``exc`` came of that; else an empty text.

    Without an exception it says so where none can be opened now.
    """
    number = getattr(exc, "errno", None)
    # A name that is not resolved (libnss-mdns: EBUSY), a failure of several addresses: these hide why, so a descriptor
    # is tried for.
    if number not in _SHORTAGE and (exc is None or number is None or number < 0 or number == errno.EBUSY):
        number = _tried()
    if number == errno.ENFILE:
        return "this machine is out of file descriptors"
    return f"this process is out of file descriptors{_limit()}" if number == errno.EMFILE else ""


def _tried() -> int | None:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as exc:
        return exc.errno
    return None


def _limit() -> str:
    try:
        import resource
    except ImportError:
        return ""
    return f" (its limit is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]})"


class HasSocket(Protocol):
    """A transport, or what else tells its socket as transports do."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See `asyncio.BaseTransport.get_extra_info`."""


class Socket(Protocol):
    """A socket itself."""

    def fileno(self) -> int:
        """See `socket.socket.fileno`."""


class HasSockets(Protocol):
    """A server that listens."""

    @property
    def sockets(self) -> Any:
        """See `asyncio.Server.sockets`."""


_ours: Final[WeakSet[Socket | HasSocket | HasSockets]] = WeakSet()


def keep_from_children(*opened: Socket | HasSocket | HasSockets) -> None:
    """Have a process that is forked from this one lose these sockets.

    Otherwise the port would stay taken, and a connection open, until the child has ended as well.
    """
    _ours.update(opened)


def _sockets(opened: Any) -> tuple[Socket, ...]:
    if hasattr(opened, "fileno"):
        return (opened,)
    return tuple(opened.sockets) if hasattr(opened, "sockets") else (opened.get_extra_info("socket"),)


def _lose() -> None:
    """In a forked child, which shares sockets, and what waits for them, with its parent.

    A descriptor is not closed but made one of the null device: whatever still holds the number closes no other file,
    and takes nothing out of the parent's epoll.
    """
    opened, null = list(_ours), os.open(os.devnull, os.O_RDWR)
    _ours.clear()
    for each in opened:
        with suppress(Exception):  # closed meanwhile, in the way of each loop
            for sock in _sockets(each):
                if stat.S_ISSOCK(os.fstat(sock.fileno()).st_mode):
                    os.dup2(null, sock.fileno(), inheritable=False)
    os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lose)
