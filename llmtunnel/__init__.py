"""Make an HTTP service on one machine available on another, through a peer-to-peer WebRTC data channel.

This package exports the public names. Each is loaded on first use, so that ``import llmtunnel`` is fast.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from . import aio
    from .config import IceServers, Limits, ProxySettings, ServeSettings, Settings, Timeouts
    from .errors import (
        AccessDenied,
        AddressInUse,
        AuthenticationFailed,
        ConnectFailed,
        PeerError,
        PeerLost,
        PeerNotFound,
        RoomFull,
        SettingError,
        SignalError,
        SignalRejected,
        SignalRestarting,
        SignalUnreachable,
        StreamError,
        TunnelError,
        Unwelcome,
        UpstreamError,
        UpstreamNotFound,
        UpstreamUnreachable,
        VersionMismatch,
        WaitTimeout,
    )
    from .invite import Invite
    from .listener import ListenerPolicy
    from .measure.result import BenchResult
    from .paths import Path
    from .status import Notice, PeerStatus, Phase, RequestRecord, Role, Status
    from .sync import bench, proxy, serve
    from .upstream import Upstream

__all__ = [
    "AccessDenied",
    "AddressInUse",
    "AuthenticationFailed",
    "BenchResult",
    "ConnectFailed",
    "IceServers",
    "Invite",
    "Limits",
    "ListenerPolicy",
    "Notice",
    "Path",
    "PeerError",
    "PeerLost",
    "PeerNotFound",
    "PeerStatus",
    "Phase",
    "ProxySettings",
    "RequestRecord",
    "Role",
    "RoomFull",
    "ServeSettings",
    "SettingError",
    "Settings",
    "SignalError",
    "SignalRejected",
    "SignalRestarting",
    "SignalUnreachable",
    "Status",
    "StreamError",
    "Timeouts",
    "TunnelError",
    "Unwelcome",
    "Upstream",
    "UpstreamError",
    "UpstreamNotFound",
    "UpstreamUnreachable",
    "VersionMismatch",
    "WaitTimeout",
    "__version__",
    "aio",
    "bench",
    "proxy",
    "serve",
]

_MODULES = {
    "config": ("IceServers", "Limits", "ProxySettings", "ServeSettings", "Settings", "Timeouts"),
    "invite": ("Invite",),
    "listener": ("ListenerPolicy",),
    "paths": ("Path",),
    "status": ("Notice", "PeerStatus", "Phase", "RequestRecord", "Role", "Status"),
    "measure.result": ("BenchResult",),
    "sync": ("bench", "proxy", "serve"),
    "upstream": ("Upstream",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "aio":
        return import_module(".aio", __name__)
    value: object = getattr(import_module("." + _HOMES.get(name, "errors"), __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add the magics ``%tunnel`` and ``%%tunnel``; ``%load_ext llmtunnel`` calls this."""
    from .notebook import magics

    magics.load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Remove the magics, and leave tunnels running; ``%unload_ext llmtunnel`` calls this."""
    from .notebook import magics

    magics.unload(shell)
