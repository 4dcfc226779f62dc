"""Which requests serve takes: its policy, and each peer's limits. No I/O; time comes from the caller's clock."""

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
"""Seconds after which to ask again where one of the peer's own requests has to end first: nobody knows when."""

_OVERRIDES: Final = re.compile(
    # What makes of the request another: a method or path in a field, as frameworks, IIS's modules and gunicorn read
    # it. WSGI and CGI know no difference between - and _. Refused rather than taken out, as a POST that its client
    # means for a DELETE must not be done as a POST.
    rb"x[-_]http[-_]method([-_]override)?|x[-_]method[-_]override|x[-_](original|rewrite)[-_]ur[il]"
    rb"|script[-_]name|path[-_]info",
    re.IGNORECASE,
)


class Refused(TunnelError):
    """A request that serve does not put to the upstream; ``told`` is what its client hears."""

    def __init__(self, told: Failure) -> None:
        super().__init__(told.message)
        self.told = told


class Admission:
    """Decides on each request before the upstream hears of it."""

    def __init__(self, exposure: Exposure, *, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds that only grow."""
        self._exposure = exposure
        self._clock = clock
        self._peers: dict[str, _Usage] = {}

    def check(self, head: RequestHead, target: bytes) -> RequestHead:
        """Hold a request to the policy; ``target`` is the upstream's, without its base path. Raises `Refused`.

        Returns the request as it may be passed on: without an offer to upgrade to a protocol in which other paths could
        be asked for, unseen. Under a policy WebSocket is the only other protocol.
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
        """Hold a body, as told or as received so far, to ``--max-body``. Raises `Refused`."""
        limit = self._exposure.max_body
        if limit is not None and length > limit:
            raise _refused(413, "body_too_large", f"The request's body is over {limit} bytes, serve's --max-body.")

    @contextmanager
    def admitted(self, peer: str) -> Iterator[None]:
        """Count a request of this peer while the block runs. Raises `Refused` where it has too many."""
        usage = self._usage(peer)
        self._check_usage(usage)
        usage.active += 1
        try:
            yield
        finally:
            usage.active -= 1

    def _usage(self, peer: str) -> _Usage:
        """The peer's; those of others that do not count any more are forgotten when somebody comes."""
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
    """What one peer has asked."""

    def __init__(self) -> None:
        self.active = 0
        self.started: deque[float] = deque()
        """When the requests of the last minute came; no more than are allowed in one."""

    def recent(self, now: float) -> int:
        """How many requests came in the last minute."""
        while self.started and self.started[0] <= now - MINUTE:
            self.started.popleft()
        return len(self.started)


def _override(fields: Fields) -> str:
    """The first field that may make the request another; empty where there is none."""
    return next((name.decode("ascii") for name, _ in fields if _OVERRIDES.fullmatch(name)), "")


def _shown(path: str) -> str:
    """A path for a message: a peer may send thousands of characters, and some that terminals obey."""
    shown = path if path.isprintable() else ascii(path)[1:-1]
    return shown if len(shown) <= 200 else shown[:200] + "…"


def _too_many(what: str, wait: int) -> Refused:
    return _refused(429, "too_many_requests", f"This proxy has {what}. Try again in {wait} s.", retry_after=wait)


def _refused(status: int, code: str, message: str, *, retry_after: int | None = None) -> Refused:
    return Refused(Failure(status=status, code=code, message=message, retry_after=retry_after))
