"""Request and parse the list of a service's models, in OpenAI's or Ollama's format.

The caller provides the function that requests a path: serve uses its pool, and a proxy its session.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from ..config import KIB
from ..errors import ErrorCode, StreamError, UpstreamError
from ..protocol.heads import Fields, RequestHead
from ..session.mux import Session

PATHS: Final = (b"/v1/models", b"/api/tags", b"/models")
"""Paths that list models. The last one is OpenAI's below an upstream's or a client's ``/v1``."""

MAX_ANSWER: Final = 512 * KIB
"""Maximum bytes read of a response. A list of a thousand models is smaller."""

ACCEPT: Final[Fields] = ((b"Accept", b"application/json"),)

_PATIENCE: Final = 10.0
"""Maximum time for all requests of a proxy, in seconds. A busy upstream may not list its models meanwhile."""

_HINTS: Final = {
    401: "The model server requires a key. Serve can send it with --upstream-header.",
    403: "Check serve's --policy, --allow and --deny.",
    429: "Check serve's --max-requests and --max-requests-per-minute.",
    502: "Check that the model server is running on serve's machine.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A service's response at one path."""

    status: int
    models: tuple[str, ...] | None
    """The models; None if the response is not a list of models."""

    @classmethod
    def of(cls, status: int, body: bytes) -> Answer:
        """Parse a response."""
        return cls(status=status, models=read_models(body) if status == 200 else None)


Ask = Callable[[bytes], Awaitable[Answer]]
"""Function that sends a GET for a path."""


async def look(ask: Ask) -> Answer:
    """Return the first response that lists models, or else the first response. Raises what ``ask`` raises."""
    first: Answer | None = None
    for path in PATHS:
        answer = await ask(path)
        if answer.models is not None:
            return answer
        first = first or answer
    assert first is not None
    return first


async def models_through(session: Session) -> tuple[str, ...]:
    """Return the models that a session's serve lists; empty if its upstream lists none.

    Raises `UpstreamError`, or `PeerLost`.
    """

    async def ask(path: bytes) -> Answer:
        return await _ask(session, path)

    try:
        async with asyncio.timeout(_PATIENCE):
            answer = await look(ask)
    except TimeoutError as exc:
        raise UpstreamError(
            f"The model server did not list its models within {_PATIENCE:g} s.", hint="It may be busy. Try again."
        ) from exc
    except StreamError as exc:
        raise UpstreamError(f"The model server did not list its models: {exc}", hint=_HINTS[502]) from exc
    if answer.models is None and (answer.status in _HINTS or answer.status >= 500):
        raise UpstreamError(
            f"The model server did not list its models: it answered with HTTP status {answer.status}.",
            hint=_HINTS.get(answer.status, "Look at the model server's log on serve's machine."),
        )
    return answer.models or ()


async def _ask(session: Session, path: bytes) -> Answer:
    stream = await session.open(RequestHead(method=b"GET", target=path, fields=ACCEPT, last=True), ended=True)
    try:
        while (head := await stream.response()).interim:
            pass
        body = bytearray()
        while len(body) <= MAX_ANSWER and (data := await stream.receive()):
            body += data
        return Answer.of(head.status, bytes(body))
    finally:
        stream.reset(ErrorCode.CANCELLED, "The answer is not needed.")


def listed(answer: dict[str, Any], key: str, name: str) -> list[Any] | None:
    """Return the names of the objects listed under ``key``; None if there is no such list."""
    items = answer.get(key)
    if not isinstance(items, list):
        return None
    return [item.get(name) for item in items if isinstance(item, dict)]


def read_models(body: bytes) -> tuple[str, ...] | None:
    """Return the models in a response's JSON; None if it is not a list of models."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    for key, name in (("data", "id"), ("models", "name")):
        if (models := listed(answer, key, name)) is not None:
            return tuple(model for model in models if isinstance(model, str))
    return None
