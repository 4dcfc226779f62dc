"""The command line on a system that lacks what only POSIX has: what Windows would make of it, as far as Linux can tell.

python -m tests.support.without_posix COMMAND …
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import socket
import sys

MISSING = {
    os: (
        "fork",
        "forkpty",
        "register_at_fork",
        "getuid",
        "geteuid",
        "getgid",
        "killpg",
        "setsid",
        "uname",
        "get_blocking",
        "set_blocking",
    ),
    signal: ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGPIPE", "SIGCHLD", "pthread_sigmask"),
    socket: ("AF_UNIX", "SO_REUSEPORT"),
}
MODULES = ("uvloop", "fcntl", "pwd", "grp", "resource", "termios", "tty", "pty")


def _refuse(*_: object, **__: object) -> None:
    raise NotImplementedError


def take_away() -> None:
    """Remove it all, before anything of ours is imported."""
    import aiohttp  # noqa: F401  the libraries that we stand on have their own branches for Windows,
    import aioice  # noqa: F401  taken by sys.platform, which must stay true
    import aiortc  # noqa: F401

    # asyncio wakes its loop through a pair, which Windows makes of AF_INET: what of it is the loop's own remains.
    socket.socketpair = functools.partial(socket.socketpair, socket.AF_UNIX)
    for module, names in MISSING.items():
        for name in names:
            module.__dict__.pop(name, None)
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in ("add_signal_handler", "remove_signal_handler"):
        setattr(asyncio.SelectorEventLoop, name, _refuse)


if __name__ == "__main__":
    take_away()
    from llmtunnel.cli import main

    sys.exit(main())
