"""Read figures from a passing response: a model's name, tokens and token rate, or the progress of a pull. Pure.

The APIs of OpenAI (chat, completions, responses), Ollama, Anthropic, llama.cpp, SGLang and TGI use the same few names
in their JSON, streamed or whole. The meter looks for them in each line, without parsing. Within a JSON string, a quote
follows a backslash, so no text of a response can look like a name. All of these servers put the data of a Server-Sent
Event on one line.
"""

from __future__ import annotations

import json
import re
from typing import Final

from ..config import KIB
from ..protocol.heads import RequestHead, ResponseHead, get_all
from ..status import Progress

MAX_LINE: Final = 256 * KIB
"""Maximum bytes of a line that is searched; a line with the whole of a long response has some thousand."""

_ENDS: Final = frozenset(
    (
        *(b"completions", b"responses", b"messages"),  # OpenAI's API, and Anthropic's
        *(b"chat", b"generate"),  # Ollama's; also SGLang's and TGI's own
        *(b"completion", b"infill", b"generate_stream"),  # llama.cpp's own, and TGI's
    )
)
"""Last segments of paths where models answer, wherever the API is mounted."""

_LONG: Final = frozenset((b"pull", b"push", b"create"))
"""Last segments of Ollama's paths that answer with progress, line by line."""

_LINES: Final = b"application/x-ndjson"
_STREAMS: Final = frozenset((b"text/event-stream", _LINES))
_WHOLE: Final = b"application/json"

_MODEL: Final = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.){1,200}")')
_TOKEN: Final = re.compile(
    rb'"(?:content|text|response|thinking|reasoning|reasoning_content|arguments|delta|partial_json)"\s*:\s*"[^"]'
)
_TOLD: Final = re.compile(
    rb'"(completion_tokens|output_tokens|eval_count|predicted_n|tokens_predicted|generated_tokens'
    rb'|eval_duration|predicted_per_second)"\s*:\s*(\d{1,15}(?:\.\d{1,20})?)\b'
)
_PART: Final = re.compile(rb'"(total|completed)"\s*:\s*(\d{1,18})\b')
_DIGEST: Final = re.compile(rb'"digest"\s*:\s*"([^"\\]{1,100})"')
_SAID: Final = re.compile(rb'"(status|error)"\s*:\s*("(?:[^"\\]|\\.){1,400}")')
MAX_PARTS: Final = 64
"""Maximum number of parts of a pull, each of which is a file; a model has about five."""
_NANOSECONDS: Final = b"eval_duration"
_RATE: Final = b"predicted_per_second"


class Meter:
    """Call `feed` with a response's body, then `end`. Any thread can read the figures at any time."""

    def __init__(self, *, streamed: bool) -> None:
        self.model = ""
        """Name of the model; empty until it appears."""
        self.error = ""
        """For a pull: why it failed, which its server reports after a status of 200; empty if it did not."""
        self.progress: Progress | None = None
        """For a pull: its progress, which only a `WorkMeter` reads."""
        self._streamed = streamed
        self._rest = b""
        """The incomplete last line."""
        self._skipping = False
        """Whether the end of a line that is too long has yet to arrive."""
        self._events = self._events_told = 0
        """Number of events with text, in total and when the server last reported its own count."""
        self._first = self._last = 0.0
        self._told: int | None = None
        self._told_rate: float | None = None
        self._told_seconds: float | None = None

    @property
    def tokens(self) -> int | None:
        """The server's own count, otherwise the number of events with text; None if there are none."""
        if self._told is not None:
            return self._told + self._events - self._events_told
        return self._events or None

    @property
    def first_token(self) -> float | None:
        """When the first event with text arrived, in the seconds passed to `feed`; None before that."""
        return self._first if self._events else None

    @property
    def tokens_per_second(self) -> float | None:
        """The server's own rate, otherwise the rate from the first token to the last; None for fewer than two."""
        if self._told_rate is not None:
            return round(self._told_rate, 2)
        tokens, seconds = self.tokens or 0, self._last - self._first
        if self._told and self._told_seconds:
            return round(self._told / self._told_seconds, 2)
        return round((tokens - 1) / seconds, 2) if tokens > 1 and seconds > 0 else None

    def feed(self, data: bytes, now: float) -> None:
        """Process body bytes that arrived at this time, in seconds."""
        *lines, rest = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        for line in lines:
            if self._skipping:
                self._skipping = False
            elif line:
                self._look(line, now)
        self._rest = b"" if self._skipping else rest
        if len(self._rest) > MAX_LINE:
            self._rest, self._skipping = b"", True

    def end(self, now: float) -> None:
        """Process the end of the body, complete or not: its last line may lack a line end."""
        self.feed(b"\n", now)

    def _look(self, line: bytes, now: float) -> None:
        if len(line) > MAX_LINE:
            return
        if not self.model and (found := _MODEL.search(line)):
            self.model = _text(found[1])
        if self._streamed and _TOKEN.search(line):
            self._first = self._first if self._events else now
            self._last = now
            self._events += 1
        for name, number in _TOLD.findall(line):
            self._take(name, float(number))

    def _take(self, name: bytes, number: float) -> None:
        if name == _RATE:
            self._told_rate = number
        elif name == _NANOSECONDS:
            self._told_seconds = number / 1e9
        else:
            self._events_told, self._told = self._events, int(number)  # in this order, since other threads read them


class WorkMeter(Meter):
    """Meter for Ollama's progress lines, which have the size of each part and the bytes done."""

    def __init__(self) -> None:
        super().__init__(streamed=False)
        self._parts: dict[bytes, tuple[int, int]] = {}
        self._done = self._total = 0
        self._what = ""

    def _look(self, line: bytes, now: float) -> None:
        if len(line) > MAX_LINE:
            return
        numbers = {name: int(number) for name, number in _PART.findall(line)}
        if total := numbers.get(b"total", 0):
            self._count(_DIGEST.search(line), min(numbers.get(b"completed", 0), total), total)
        if found := _SAID.search(line):
            self._what = _text(found[2])
            self.error = self._what if found[1] == b"error" else ""
        if self._total or self._what:
            self.progress = Progress(done=self._done, total=self._total, what=self._what)

    def _count(self, digest: re.Match[bytes] | None, done: int, total: int) -> None:
        part = digest[1] if digest else b""
        if part not in self._parts and len(self._parts) >= MAX_PARTS:
            return
        before_done, before_total = self._parts.get(part, (0, 0))
        self._parts[part] = done, total
        self._done += done - before_done
        self._total += total - before_total


def metered(request: RequestHead, response: ResponseHead) -> Meter | None:
    """Return a meter for the response's body; None unless it comes from a model or a pull, and is uncompressed."""
    end = request.target.partition(b"?")[0].rpartition(b"/")[2]
    if not (end in _ENDS or end in _LONG) or not 200 <= response.status < 300:
        return None
    if any(coding.lower() != b"identity" for coding in get_all(response.fields, b"content-encoding")):
        return None
    kinds = {value.partition(b";")[0].strip().lower() for value in get_all(response.fields, b"content-type")}
    if end in _LONG:
        return WorkMeter() if _LINES in kinds else None
    if kinds & _STREAMS:
        return Meter(streamed=True)
    return Meter(streamed=False) if _WHOLE in kinds else None


def _text(literal: bytes) -> str:
    """Decode a JSON string, as far as possible."""
    try:
        return str(json.loads(literal)).encode("utf-8", "replace").decode()
    except ValueError:
        return ""
