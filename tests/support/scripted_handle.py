"""A handle whose tunnel is told by the test, a clock that the test moves, and the messages that a page would get."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import comm.base_comm

from llmtunnel.errors import PeerNotFound
from llmtunnel.paths import Path
from llmtunnel.status import ActiveRequest, PeerStatus, Phase, RequestRecord, Role, Status

NOW = 1_700_000_000.0
CODE = "4821309-tulip-mango-onion-cedar-fruit"
HOSTILE = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>&amp;\x1b[31m"
"""What a peer's, a path's or a model's name may be."""


def status(**more: Any) -> Status:
    given = {"role": Role.SERVE, "phase": Phase.READY, "url": "http://127.0.0.1:11434", **more}
    return Status(**given)


def peer(name: str = "proxy-ab12cd", **more: Any) -> PeerStatus:
    return PeerStatus(peer=name, path=Path.DIRECT, rtt=0.0042, since=NOW - 60, **more)


def active(path: str = "/v1/chat/completions", **more: Any) -> ActiveRequest:
    return ActiveRequest(method="POST", path=path, peer="proxy-ab12cd", started=NOW - 2, **more)


def record(path: str = "/v1/models", **more: Any) -> RequestRecord:
    figures = {"method": "GET", "status": 200, "bytes_up": 0, "bytes_down": 2, "first_byte_ms": 3, "duration_ms": 4}
    return RequestRecord(path=path, **(figures | more))


@dataclass(eq=False)
class Handle:
    """As much of a handle as a view uses; what its buttons do is written down."""

    status: Status = field(default_factory=status)
    ended: tuple[RequestRecord, ...] = ()
    under_way: tuple[ActiveRequest, ...] = ()
    invite: Any = field(default=None, repr=False)
    loop: asyncio.AbstractEventLoop | None = None
    done: list[str] = field(default_factory=list)
    openai_base_url: str = "http://127.0.0.1:8000/v1"
    needs_key: bool = False

    async def models(self) -> tuple[str, ...]:
        self.done.append("models")
        return ("llama3", HOSTILE)

    def records(self, limit: int = 20) -> tuple[RequestRecord, ...]:
        return self.ended[-limit:]

    def active_requests(self) -> tuple[ActiveRequest, ...]:
        return self.under_way

    def close(self) -> None:
        self.done.append("close")

    async def reconnect(self) -> None:
        self.done.append("reconnect")

    def kick(self, peer: str) -> None:
        self.done.append(f"kick {peer}")
        raise PeerNotFound(f"There is no peer {peer!r} now.", hint="Those that are in: none.")


def invited(**more: Any) -> Handle:
    """A serve with an invite."""
    return Handle(invite=SimpleNamespace(code=CODE), **more)


@dataclass
class Clock:
    """Unix time, as the test says."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


class RecordingComm(comm.base_comm.BaseComm):
    """Keeps what would go to the page."""

    sent: ClassVar[list[dict[str, Any]]] = []

    def publish_msg(self, msg_type: str, **message: Any) -> None:
        self.sent.append({"type": msg_type, **message})
