"""Reaching into a network namespace: commands that run in one, and connections to what listens there."""

from __future__ import annotations

import ctypes
import os
import socket
import threading

CLONE_NEWNET = 0x40000000


def within(namespace: str | None) -> list[str]:
    """What goes before a command so that it runs in the namespace; None: where we are."""
    return [] if namespace is None else ["ip", "netns", "exec", namespace]


def dial(host: str, port: int, namespace: str | None = None) -> socket.socket:
    """A connection to what listens in the namespace. A socket stays in the namespace in which it was made."""
    if namespace is None:
        return socket.create_connection((host, port))
    made: list[socket.socket | OSError] = []

    def enter_and_dial() -> None:
        try:
            _enter(f"/run/netns/{namespace}")
            made.append(socket.create_connection((host, port)))
        except OSError as exc:
            made.append(exc)

    thread = threading.Thread(target=enter_and_dial)  # a namespace is a thread's
    thread.start()
    thread.join()
    [found] = made
    if isinstance(found, OSError):
        raise found
    return found


def _enter(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path) as file:  # noqa: PTH123 - its descriptor is what counts
        if libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
