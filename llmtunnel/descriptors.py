"""This process's file descriptors: the standard ones, their limit, and those that a child must not inherit."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from typing import Any, Final, Protocol, TextIO
from weakref import WeakSet

ENOUGH: Final = 65_536
"""Limit that the command line requests: far more than `config.Limits` needs; some systems have no hard limit."""
_MACOS: Final = 10_240
"""macOS rejects a soft limit above its OPEN_MAX, whatever the hard limit is (setrlimit(2) there)."""
RAISE_IT: Final = "Raise the limit, for example with `ulimit -n 65536`, or use fewer connections at once."

_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE})


def open_standard() -> None:
    """Open closed standard streams. The command line calls this first.

    Otherwise the next file or socket would get such a number, and receive the output. Standard input then ends at once,
    and standard error discards everything. Writes to standard output fail, so that a command whose output matters
    reports the loss.
    """
    streams = (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_RDWR))
    for number, (name, mode, flags) in enumerate(streams):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def write(stream: TextIO, text: str) -> OSError | None:
    """Write a text at once, and return the error if that fails.

    The rest of the text is then dropped. Otherwise Python would try again when the process ends, with a traceback and
    an exit status of its own.
    """
    try:
        stream.write(text)
        stream.flush()
    except OSError as exc:
        with suppress(OSError):  # not one of the standard streams
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        return exc
    return None


def same(one: TextIO, other: TextIO) -> bool:
    """Whether both streams write to the same terminal, file or pipe."""
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # one is closed, or not a real file
        return False


def raise_limit() -> None:
    """Raise this process's soft limit to its hard limit, at most to `ENOUGH`. For our own processes only."""
    try:
        import resource
    except ImportError:  # Windows, whose limit does not apply to sockets
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
    """Say that this process or the machine is out of descriptors, if that caused ``exc``; else return an empty string.

    Without an exception, check whether a descriptor can be opened now.
    """
    number = getattr(exc, "errno", None)
    # A failed name lookup (EBUSY with libnss-mdns) and a failure of several addresses hide the cause, so try to open a
    # descriptor.
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
    """A transport, or another object with a socket in its extra info."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See `asyncio.BaseTransport.get_extra_info`."""


class Socket(Protocol):
    """A socket."""

    def fileno(self) -> int:
        """See `socket.socket.fileno`."""


class HasSockets(Protocol):
    """A listening server."""

    @property
    def sockets(self) -> Any:
        """See `asyncio.Server.sockets`."""


_ours: Final[WeakSet[Socket | HasSocket | HasSockets]] = WeakSet()


def keep_from_children(*opened: Socket | HasSocket | HasSockets) -> None:
    """Make processes that are forked from this one lose these sockets.

    Otherwise a port would stay in use, and a connection open, until the child has ended too.
    """
    _ours.update(opened)


def _sockets(opened: Any) -> tuple[Socket, ...]:
    if hasattr(opened, "fileno"):
        return (opened,)
    return tuple(opened.sockets) if hasattr(opened, "sockets") else (opened.get_extra_info("socket"),)


def _lose() -> None:
    """Take the parent's sockets away from a forked child.

    The descriptor is redirected to the null device instead of being closed. So code that still uses its number cannot
    close another file, and the parent's epoll set stays unchanged.
    """
    opened, null = list(_ours), os.open(os.devnull, os.O_RDWR)
    _ours.clear()
    for each in opened:
        with suppress(Exception):  # already closed; each kind of loop reports that differently
            for sock in _sockets(each):
                if stat.S_ISSOCK(os.fstat(sock.fileno()).st_mode):
                    os.dup2(null, sock.fileno(), inheritable=False)
    os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lose)
