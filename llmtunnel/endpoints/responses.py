"""The tunnel's own responses, which say what to do next. Pure.

A browser that opens a page gets HTML. Every other client gets JSON in the format that OpenAI's clients display.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from ..errors import ErrorCode, PeerLost, PeerNotFound, ProtocolError, StreamReset, TooManyStreams, TunnelError
from ..protocol.heads import Fields, RequestHead, ResponseHead
from .encoding import encode_response
from .http1 import BadMessage
from .page import navigates, page

RETRY_AFTER: Final = 2
"""Seconds after which a client may retry: a serve that was restarted is connected again by then, or soon after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a request gets no response from the upstream, as its client sees it."""

    status: int
    code: str
    """Code for programs: ``no_peer``, ``peer_lost``, ``bad_request`` …"""
    message: str
    """Text for people: what happened, and what to do."""
    retry_after: int | None = None
    """Seconds after which to retry. A 503 always uses `RETRY_AFTER`."""

    def response(self, request: RequestHead | None = None) -> tuple[ResponseHead, bytes]:
        """Return head and body. ``request``: the request to answer; a browser that shows the response gets a page."""
        if request is not None and navigates(request):
            fields, body = page(request, status=self.status, code=self.code, message=self.message)
        else:
            fields, body = self._json()
        wait = RETRY_AFTER if self.status == HTTPStatus.SERVICE_UNAVAILABLE else self.retry_after
        if wait is not None:
            fields += ((b"Retry-After", b"%d" % wait),)
        if self.status == HTTPStatus.UNAUTHORIZED:
            fields += ((b"WWW-Authenticate", b'Bearer realm="llmtunnel"'),)
        return ResponseHead(status=self.status, reason=standard_reason(self.status), fields=fields), body

    def _json(self) -> tuple[Fields, bytes]:
        error = {"message": self.message, "type": "tunnel_error", "code": self.code}
        body = json.dumps({"error": error}, ensure_ascii=False).encode() + b"\n"
        return ((b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body))), body

    def encode(self) -> bytes:
        """Return the response to invalid bytes, or to a client that cannot be served; the connection then closes."""
        head, body = self.response()
        return encode_response(replace(head, fields=(*head.fields, (b"Connection", b"close")))) + body


STOPPING: Final = Failure(status=502, code="stopping", message="The proxy is stopping. Start it again, then retry.")
BUSY: Final = Failure(
    status=503,
    code="too_many_connections",
    message="The proxy has too many client connections. Close some and retry.",
)
PROBED: Final = Failure(
    status=421, code="proxy", message="This is an llmtunnel proxy, not a model server. It did not forward the request."
)
DEFECT: Final = Failure(
    status=502,
    code="internal",
    message="An internal error in the proxy ended the request. Please report this.",
)

_RESETS: Final = {
    ErrorCode.REFUSED: (503, "refused", "Try again in a moment."),
    ErrorCode.UPSTREAM: (502, "upstream_broken", "Ask the person who runs serve to look at the model server's log."),
    ErrorCode.TRUNCATED: (502, "truncated", "Send the request again."),
    ErrorCode.FLOW_CONTROL: (502, "flow_control", "Read the response faster, or update llmtunnel on the other side."),
    ErrorCode.TOO_LARGE: (502, "too_large", "The response's header is too large for the tunnel."),
}


def failure(error: TunnelError | BadMessage) -> Failure:
    """Return the failure for a client that has not received a response's head yet."""
    if isinstance(error, BadMessage):
        code = "bad_request" if error.status < 500 else "not_supported"
        return Failure(status=error.status, code=code, message=f"The proxy rejects this request: {error}.")
    status, code, advice = _kind(error)
    return Failure(status=status, code=code, message=f"{error.message} {error.hint or advice}".strip())


def _kind(error: TunnelError) -> tuple[int, str, str]:
    match error:
        case PeerNotFound():
            return 503, "no_peer", "Start `llmtunnel serve` on the other side, then retry."
        case TooManyStreams():
            # Not 429: the tunnel is full, possibly because of other clients.
            return 503, "too_many_requests", "Send fewer requests at once."
        case PeerLost():
            return 502, "peer_lost", "The proxy reconnects by itself. Send the request again."
        case StreamReset(code=code) if code in _RESETS:
            return _RESETS[code]
        case ProtocolError(code=ErrorCode.TOO_LARGE):
            return 431, "too_large", "Send fewer or shorter header fields."
        case StreamReset() | ProtocolError():
            return 502, error.code.name.lower(), "Send the request again. If that does not help, look at serve's log."
        case _:
            return 503, "no_tunnel", "Look at the proxy's log."


def standard_reason(status: int) -> bytes:
    """Return the standard reason phrase of a status; empty for an unknown one."""
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
