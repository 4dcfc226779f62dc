"""Which requests serve accepts: its policy, and the limits per peer. No I/O; the caller provides the clock."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from ..config import Exposure
from ..errors import TunnelError
from ..protocol.heads import (
    PREFLIGHT_METHOD,
    Fields,
    RequestHead,
    get_all,
    is_preflight,
    is_websocket,
    keep_upgrades,
    leaves_http,
)
from .responses import Failure

MINUTE: Final = 60.0
SOON: Final = 1
"""Seconds for Retry-After if one of the peer's own requests must end first, since nobody knows when that is."""

_OVERRIDES: Final = re.compile(
    # Fields that override the method or the path, as frameworks, IIS modules and gunicorn read them. WSGI and CGI do
    # not distinguish - from _. Such a request is rejected instead of losing the field: what its client means as a
    # DELETE must not be executed as a POST.
    rb"x[-_]http[-_]method([-_]override)?|x[-_]method[-_]override|x[-_](original|rewrite)[-_]ur[il]"
    rb"|script[-_]name|path[-_]info",
    re.IGNORECASE,
)


class Refused(TunnelError):
    """A request that serve does not forward to the upstream. ``told`` is the response to its client."""

    def __init__(self, told: Failure) -> None:
        super().__init__(told.message)
        self.told = told


class Admission:
    """Decides about each request before the upstream gets it."""

    def __init__(self, exposure: Exposure, *, clock: Callable[[], float]) -> None:
        """``clock`` returns monotonic seconds."""
        self._exposure = exposure
        self._clock = clock
        self._peers: dict[str, _Usage] = {}

    def check(self, head: RequestHead, target: bytes) -> RequestHead:
        """Check a request against the policy. ``target`` is the upstream's, without its base path. Raises `Refused`.

        Returns the request to forward, without an offer to upgrade to a protocol that would bypass the checks. Under a
        policy, WebSocket is the only allowed upgrade.
        """
        restricts = self._exposure.policy.restricts
        if restricts:
            reason = self._refusal(head, target)
            if reason is not None:
                method = head.method.decode("ascii", "backslashreplace")
                raise _refused(403, "not_allowed", f"{method} {_shown(head.path)} {reason}.")
        return replace(head, fields=keep_upgrades(head.fields, is_websocket if restricts else leaves_http))

    def _refusal(self, head: RequestHead, target: bytes) -> str | None:
        policy = self._exposure.policy
        path, _, query = target.partition(b"?")
        if b"#" in query:
            return f"contains a fragment. Serve rejects that because of {policy.flags}"
        asked = get_all(head.fields, PREFLIGHT_METHOD)[0].decode("latin-1") if is_preflight(head) else None
        reason = policy.refusal(head.method.decode("latin-1"), path, preflight_for=asked)
        if reason is None and (name := _override(head.fields)):
            reason = f"has the header {name}, which could replace the path. Serve rejects it because of {policy.flags}"
        return reason

    def check_length(self, length: int) -> None:
        """Check a body's length, as declared or as received so far, against ``--max-body``. Raises `Refused`."""
        limit = self._exposure.max_body
        if limit is not None and length > limit:
            raise _refused(413, "body_too_large", f"The request's body is over {limit} bytes, serve's --max-body.")

    @contextmanager
    def admitted(self, peer: str) -> Iterator[None]:
        """Count a request of this peer within the context. Raises `Refused` if it has too many."""
        usage = self._usage(peer)
        self._check_usage(usage)
        usage.active += 1
        try:
            yield
        finally:
            usage.active -= 1

    def _usage(self, peer: str) -> _Usage:
        """Return a peer's usage. When a new peer appears, usage of others that no longer counts is removed."""
        now = self._clock()
        if peer not in self._peers:
            self._peers = {name: usage for name, usage in self._peers.items() if usage.active or usage.recent(now)}
            self._peers[peer] = _Usage()
        return self._peers[peer]

    def _check_usage(self, usage: _Usage) -> None:
        at_once, per_minute = self._exposure.max_requests, self._exposure.max_requests_per_minute
        if at_once is not None and usage.active >= at_once:
            raise _too_many(f"more than {at_once} requests at once: serve's --max-requests", SOON)
        if per_minute is not None:
            now = self._clock()
            if usage.recent(now) >= per_minute:
                wait = max(math.ceil(usage.started[0] + MINUTE - now), SOON)
                raise _too_many(f"more than {per_minute} requests a minute: serve's --max-requests-per-minute", wait)
            usage.started.append(now)


class _Usage:
    """The requests of one peer."""

    def __init__(self) -> None:
        self.active = 0
        self.started: deque[float] = deque()
        """When the requests of the last minute arrived; at most as many as are allowed in one."""

    def recent(self, now: float) -> int:
        """Return the number of requests in the last minute."""
        while self.started and self.started[0] <= now - MINUTE:
            self.started.popleft()
        return len(self.started)


def _override(fields: Fields) -> str:
    """Return the first field that may override method or path; empty if there is none."""
    return next((name.decode("ascii") for name, _ in fields if _OVERRIDES.fullmatch(name)), "")


def _shown(path: str) -> str:
    """Return a path for a message, shortened and without control characters."""
    shown = path if path.isprintable() else ascii(path)[1:-1]
    return shown if len(shown) <= 200 else shown[:200] + "…"


def _too_many(what: str, wait: int) -> Refused:
    return _refused(429, "too_many_requests", f"This proxy has {what}. Try again in {wait} s.", retry_after=wait)


def _refused(status: int, code: str, message: str, *, retry_after: int | None = None) -> Refused:
    return Refused(Failure(status=status, code=code, message=message, retry_after=retry_after))
