"""Format notices as lines of text: JSON for programs, short sentences for people. Pure."""

from __future__ import annotations

import errno
import json
from collections import deque
from dataclasses import replace
from typing import Final

from ..errors import TunnelError
from ..status import (
    ErrorNotice,
    Listening,
    Notice,
    PeerConnected,
    PeerLostNotice,
    Ready,
    Reconnecting,
    RequestFinished,
    RequestRecord,
    Resumed,
    Role,
    SignalConnected,
    Stopped,
    Suspended,
    TotalsNotice,
    Waiting,
)
from ..summary import duration, ended, path_words, printable, size, turn_words, waiting_words

REMEMBERED = 32
"""Lines kept per topic, so that they are not repeated."""


def json_line(notice: Notice, role: Role | None = None) -> str:
    """Return a notice as a JSON object on one ASCII line: time, event, ``role`` if given, then its own fields."""
    fields = notice.as_dict()
    return json.dumps(fields if role is None else {**fields, "role": role})


RETRYING: Final = "Retrying."


class HumanLines:
    """Notices as sentences. Bad news about the signal server or a peer appears once until there is good news, and vice
    versa.

    A cause appears once as well: an error, the retry after it and the end that it leads to all name the same cause. So
    does a hint, which several causes may share.
    """

    def __init__(self) -> None:
        self._topics = {"signal": _Topic(), "peer": _Topic()}
        self._begun = False

    def line(self, notice: Notice) -> str | None:
        """Return the sentence for a notice, or None if it would be a repetition or is for programs only."""
        self._begun |= not isinstance(notice, Stopped)
        match notice:
            case TotalsNotice():
                return None  # each request already has a line
            case Stopped() if not self._begun:
                return None  # it could not start, and the command's error says why
            case Stopped(reason=reason) if self.has_said(reason):
                return sentence(Stopped())
            case SignalConnected() | Reconnecting(what="signal server"):
                topic, good = "signal", isinstance(notice, SignalConnected)
            case PeerConnected() | Ready() | Resumed():
                topic, good = "peer", True
            case Waiting() | Suspended() | PeerLostNotice() | Reconnecting() | ErrorNotice():
                topic, good = "peer", False
            case _:
                return printable(sentence(notice))
        return self._topics[topic].news(notice, good)

    def has_said(self, cause: str) -> bool:
        """Whether the current bad news has named this cause."""
        return any(topic.has_said(cause) for topic in self._topics.values())


class _Topic:
    """What was said about one subject since its state last changed."""

    def __init__(self) -> None:
        self._good: bool | None = None
        self._said: deque[str] = deque(maxlen=REMEMBERED)

    def has_said(self, cause: str) -> bool:
        return printable(cause) in self._said

    def news(self, notice: Notice, good: bool) -> str | None:
        """Return the sentence for a notice, or the part of it that is new, or None."""
        if good is not self._good:
            self._good = good
            self._said.clear()
        cause, hint, after = printable(_cause(notice)), "", ""
        if isinstance(notice, ErrorNotice | Reconnecting):
            hint, after = printable(notice.hint), RETRYING if isinstance(notice, Reconnecting) else ""
            notice = replace(notice, hint="") if hint in self._said else notice
        repeated = isinstance(notice, ErrorNotice | Reconnecting) and cause in self._said
        text = after if repeated else printable(sentence(notice))
        if not text or text in self._said:
            return None
        self._said.extend(filter(None, (text, cause, hint, after)))
        return text


def _cause(notice: Notice) -> str:
    """Return why something failed, in the words that related notices use."""
    match notice:
        case ErrorNotice(message=cause) | Reconnecting(reason=cause) | Suspended(reason=cause):
            return cause
        case PeerLostNotice(reason=cause):
            return cause
    return ""


def sentence(notice: Notice) -> str:
    """Return a notice as a sentence. Scripts for the original wait for the first words of two of them."""
    match notice:
        case Listening():
            return f"proxy listening on {notice.url}"
        case Ready():
            return f"tunnel ready: {notice.url}"
        case SignalConnected():
            turn = turn_words(notice.turn, notice.turn_from)
            return f"in the room at {notice.signal}" + (f", with the TURN server {turn}" if turn else "")
        case Waiting():
            return waiting_words(notice.role, notice.room)
        case PeerConnected():
            place = f" from {notice.address}" if notice.address else ""
            agent = f" ({notice.agent})" if notice.agent else ""
            return f"peer {notice.peer}{agent} connected{place}, path {notice.path}, {notice.version}"
        case Suspended():
            return f"Lost contact with {notice.peer}. Requests wait for it. {ended(notice.reason)}"
        case Resumed():
            path = f"the {path_words(notice.path)} path"
            back = f"{notice.peer} is back after {duration(notice.gap_ms)}, over {path}."
            return back if notice.gap_ms else f"Switched to {path}."
        case PeerLostNotice():
            return f"{notice.peer} has disconnected. {ended(notice.reason)}"
        case Reconnecting():
            return f"{ended(_with_hint(notice.reason or f'{notice.what} lost', notice.hint))} {RETRYING}"
        case ErrorNotice():
            return f"error: {_with_hint(notice.message, notice.hint)}"
        case RequestFinished():
            return _exchange(notice.record)
        case Stopped():
            return f"stopped: {notice.reason}" if notice.reason else "stopped"
        case _:
            return notice.event


def complaint(error: TunnelError) -> str:
    """Return the lines for standard error that say why a command ends, and what to do."""
    return f"error: {error.message}\n{error.hint.strip()}".rstrip() + "\n"


def unwritten(exc: OSError) -> str:
    """Return the lines for standard error that say why standard output cannot be written."""
    why = "it is closed" if exc.errno == errno.EBADF else exc.strerror or str(exc)
    return f"error: Cannot write to standard output: {why}.\nRedirect it elsewhere, or free some space there.\n"


def rate(tokens_per_second: float) -> str:
    """Format a token rate: ``31/s``, ``0.4/s``."""
    return f"{tokens_per_second:.{0 if tokens_per_second >= 9.95 else 1}f}/s"


def _exchange(record: RequestRecord) -> str:
    text = f"{record.status or '---'} {record.method} {record.path}"
    text += f"  up {size(record.bytes_up)}, down {size(record.bytes_down)}"
    if record.first_byte_ms is not None:
        text += f", first byte {duration(record.first_byte_ms)}"
    text += f", {duration(record.duration_ms)}"
    if record.tokens is not None:
        text += f", {record.tokens} token{'s' * (record.tokens != 1)}"
    if record.tokens_per_second is not None:
        text += f", {rate(record.tokens_per_second)}"
    return f"{text}  ({record.error})" if record.error else text


def _with_hint(message: str, hint: str) -> str:
    return f"{ended(message)} {ended(hint)}" if hint else message
