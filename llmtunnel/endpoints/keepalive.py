"""Keeping a client's connection warm while the upstream says nothing yet: a queue, a long prompt.

What stands between a client and its answer (load balancers, SDKs) may give up on a connection that is silent for a
minute. A stream of events may hold comments, which clients skip (HTML Living Standard, "Server-sent events"), so a
request that asks for one can be answered before there is an answer. The price: its status is then 200, and an error
that comes later is told as an event.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final

from ..config import MIB
from ..protocol.heads import RequestHead, ResponseHead, get_all

COMMENT: Final = b": waiting for the model\n\n"
HEAD: Final = ResponseHead(
    status=200,
    reason=b"OK",
    fields=((b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-cache")),
)
LONGEST_BODY: Final = 1 * MIB
"""Bytes of a request that are read for whether it asks for events: above that it is a prompt with pictures in it."""
LONGEST_ERROR: Final = 65_536
"""Bytes of an error's body that fit an event."""

_PATHS: Final = re.compile(rb".*/(?:chat/completions|completions|responses|messages)")


class Warmer:
    """Of one exchange. ``seconds``: the silence after which a comment is sent, again and again."""

    def __init__(self, request: RequestHead, seconds: float) -> None:
        self.begun = False
        """The client was told a head, before there was one."""
        self._seconds = seconds
        self._body: bytearray | None = bytearray() if _may_ask(request) else None

    def feed(self, data: bytes) -> None:
        """Some of the request's body passes."""
        if self._body is not None:
            self._body += data
            if len(self._body) > LONGEST_BODY:
                self._body = None

    async def wait(self, head: Coroutine[Any, Any, ResponseHead], tell: Callable[[], bool]) -> ResponseHead:
        """The head, when it comes; ``tell`` sends something to the client meanwhile, and returns whether it did."""
        coming = asyncio.create_task(head, name="a response's head")
        try:
            while not (await asyncio.wait((coming,), timeout=self._seconds))[0]:
                if (self.begun or self._asks_for_events()) and tell():
                    self.begun = True
            return coming.result()
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    def _asks_for_events(self) -> bool:
        try:
            asked = json.loads(self._body or b"")
        except (ValueError, RecursionError):  # it has not all come, or it is no JSON
            return False
        return isinstance(asked, dict) and asked.get("stream") is True


def error_event(status: int, body: bytes) -> bytes:
    """An error as an event of the form that OpenAI's clients raise: the upstream's own where it has that form."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or "error" not in told:
        text = body.decode("utf-8", "replace").strip() or f"The model server answered {status}."
        told = {"error": {"message": text, "type": "upstream_error", "code": status}}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def is_event_stream(head: ResponseHead) -> bool:
    """Whether a response is what the client was told that it is."""
    kinds = [value.partition(b";")[0].strip().lower() for value in get_all(head.fields, b"content-type")]
    return head.status == 200 and kinds == [b"text/event-stream"] and not get_all(head.fields, b"content-encoding")


def _may_ask(request: RequestHead) -> bool:
    path = request.target.partition(b"?")[0]
    plain = not get_all(request.fields, b"content-encoding")
    return request.method == b"POST" and bool(_PATHS.fullmatch(path)) and plain
