"""A signal server and a toy model server in this process, for notebooks that show a whole tunnel on one machine.

    toy, signal = local.toy(), local.signal()
    server = llmtunnel.serve(toy.url, signal=signal.url)

They run on the loop thread of the tunnels, so a client that blocks its cell still gets its response.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from . import runtime


class _Server(Protocol):
    @property
    def url(self) -> str: ...

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...


class Local:
    """A running server, until `close` or the end of a ``with``."""

    def __init__(self, name: str, server: _Server) -> None:
        self._name = name
        self._hold = runtime.shared.hold()
        self._hold.last = server.aclose
        try:
            self._hold.call(server.start())
        except BaseException:
            self._hold.close()
            raise
        self.url = server.url

    def close(self) -> None:
        """Stop the server. After the last server or tunnel of this process, the loop thread ends too."""
        self._hold.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self._name} {'closed' if self._hold.released else self.url}>"

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not self._hold.released:
            _warn(f"unclosed llmtunnel {self._name}: {self.url}", ResourceWarning, stacklevel=1, source=self)


def toy(port: int = 0) -> Local:
    """Start a toy model server on 127.0.0.1, as ``llmtunnel toy``. Raises `AddressInUse`.

    Parameters:
        port: Port to listen on. 0 takes a free port.
    """
    from .endpoints.toy import Toy

    return Local("toy model server", Toy(port=port))


def signal(port: int = 0) -> Local:
    """Start a signal server on 127.0.0.1, as ``llmtunnel signal``. Raises `OSError`.

    Parameters:
        port: Port to listen on. 0 takes a free port.
    """
    from signal_server.server import SignalServer

    return Local("signal server", SignalServer(port=port))
