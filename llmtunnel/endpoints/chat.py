"""Chat with a model server over HTTP, with OpenAI's API: list its models, and stream an answer.

url of a proxy ── GET /v1/models, /api/tags ──▶ names
               ── POST /v1/chat/completions ──▶ pieces of text
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ..config import KIB
from ..errors import UpstreamError
from .discovery import read_answer
from .models import Answer, look

if TYPE_CHECKING:
    import aiohttp

Message = dict[str, str]
"""``role`` and ``content``, as in OpenAI's API."""

MAX_LINE: Final = 1024 * KIB
"""Maximum size of one event, in bytes; a token's event has some hundred."""
MAX_SAID: Final = 500
"""Maximum length of a server's own error message that is repeated, in characters."""

_OPENING: Final = "<think>"
_CLOSING: Final = "</think>"
_SPACE: Final = 64
"""Characters that may be held before thoughts, which begin an answer."""
_PATIENCE: Final = 60.0
"""Maximum time to list the models, in seconds. A proxy waits less than that for serve, and then answers 503."""

_NO_CHAT: Final = "The server behind the tunnel is not a chat server: it has no {path}."
_NO_CHAT_HINT: Final = "A chat needs a server with OpenAI's API, such as Ollama, vLLM or llama.cpp."


class Piece(NamedTuple):
    """A part of an answer."""

    text: str
    thought: bool
    """Whether it is part of a reasoning model's thoughts, which come before the answer."""


async def models(url: str, *, key: str = "") -> tuple[str, ...]:
    """Return the models that are served at ``url``, at least one. Raises `UpstreamError`."""
    bodies: list[bytes] = []
    async with _session(key) as session:

        async def ask(path: bytes) -> Answer:
            async with session.get(url + path.decode(), allow_redirects=False) as response:
                bodies.append(await read_answer(response))
                return Answer.of(response.status, bodies[-1])

        try:
            async with asyncio.timeout(_PATIENCE):
                answer = await look(ask)
        except TimeoutError as exc:
            raise UpstreamError(f"No list of models arrived within {_PATIENCE:g} s.", hint="Try again.") from exc
    if answer.models is None and answer.status in (200, 404, 405):
        raise UpstreamError(_NO_CHAT.format(path="list of models"), hint=_NO_CHAT_HINT)
    if answer.models is None:
        raise _refused(answer.status, bodies[0])
    if not answer.models:
        raise UpstreamError(
            "The model server has no model yet.",
            hint="Load one on serve's machine, with Ollama for example: ollama pull llama3.2",
        )
    return answer.models


async def answer(url: str, model: str, messages: Sequence[Message], *, key: str = "") -> AsyncGenerator[Piece, None]:
    """Ask the model at ``url`` to continue a conversation. Yields its answer as it arrives.

    A caller that stops iterating or is cancelled ends the request, and the model server stops generating.
    Raises `UpstreamError`.
    """
    thoughts = _Thoughts()
    async with aclosing(_ask(url, model, messages, key=key)) as pieces:
        async for piece in pieces:
            for part in [piece] if piece.thought else thoughts.take(piece.text):
                yield part
    for part in thoughts.rest():
        yield part


async def _ask(url: str, model: str, messages: Sequence[Message], *, key: str) -> AsyncGenerator[Piece, None]:
    """See `answer`. Thoughts are still in the text if the server leaves them there."""
    body = {"model": model, "messages": list(messages), "stream": True}
    async with _session(key) as session:
        async with session.post(f"{url}/v1/chat/completions", json=body, allow_redirects=False) as response:
            if response.status != 200:
                told = await read_answer(response)
                if response.status in (404, 405) and not _said(told):
                    raise UpstreamError(_NO_CHAT.format(path="/v1/chat/completions"), hint=_NO_CHAT_HINT)
                raise _refused(response.status, told)
            if response.content_type == "application/json":
                for piece in _pieces(await read_answer(response), "message"):
                    yield piece
            elif response.content_type == "text/event-stream":
                async for line in _lines(response):
                    if line.startswith(b"data:"):
                        for piece in _pieces(line[5:], "delta"):
                            yield piece
            else:
                kind = f"a response of type {response.content_type}"
                raise UpstreamError(f"The server behind the tunnel sent {kind}, not a chat.", hint=_NO_CHAT_HINT)


class _Thoughts:
    """Tells thoughts from the answer where the server leaves them in its text: ``<think>…</think>``.

    Text waits for the next piece only if it may be the beginning of a tag.
    """

    def __init__(self) -> None:
        self._place: Literal["before", "within", "between", "after"] = "before"
        """Where the next text is: between thoughts and answer is only space."""
        self._held = ""

    def take(self, text: str) -> Iterator[Piece]:
        """Yield what is known of the next piece of text."""
        self._held += text
        if self._place == "before":
            start = self._held.lstrip()
            if len(self._held) < _SPACE and len(start) < len(_OPENING) and _OPENING.startswith(start):
                return
            self._place = "within" if start.startswith(_OPENING) else "after"
            self._held = start.removeprefix(_OPENING) if self._place == "within" else self._held
        if self._place == "within":
            thought, tag, rest = self._held.partition(_CLOSING)
            known = len(thought) if tag else len(thought) - _overlap(thought, _CLOSING)
            if known:
                yield Piece(thought[:known], thought=True)
            self._held = rest if tag else thought[known:]
            if not tag:
                return
            self._place = "between"
        if self._place == "between":
            self._held = self._held.lstrip()
            self._place = "after" if self._held else "between"
        yield from self.rest()

    def rest(self) -> Iterator[Piece]:
        """Yield what is held: nothing follows that could make a tag of it."""
        held, self._held = self._held, ""
        if held:
            yield Piece(held, thought=self._place == "within")


def _overlap(text: str, tag: str) -> int:
    """Return the length of the longest end of the text with which the tag begins."""
    return next(length for length in range(min(len(text), len(tag) - 1), -1, -1) if text.endswith(tag[:length]))


@asynccontextmanager
async def _session(key: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Make a client for one request. The response has no timeout, since a model may think for minutes."""
    import aiohttp

    fields = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    try:
        async with aiohttp.ClientSession(headers=fields, timeout=timeout) as session:
            yield session
    except aiohttp.ClientConnectorError as exc:
        raise UpstreamError("The proxy does not answer.", hint="It may be closed: start a new one.") from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise UpstreamError("The answer broke off.", hint="Ask again. The panel shows the tunnel's state.") from exc


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for data in response.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > MAX_LINE:
            raise UpstreamError(f"The server sends an event of more than {MAX_LINE} bytes.", hint=_NO_CHAT_HINT)
    yield rest


def _pieces(data: bytes, key: str) -> Iterator[Piece]:
    """Return the text in one event, or in a whole response. Raises `UpstreamError` if it is an error."""
    event = _parsed(data)
    if event.get("error"):
        raise UpstreamError(f"The model server says: {_said(data) or 'an error without a message'}")
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    told = first.get(key) if isinstance(first, dict) else None
    if not isinstance(told, dict):
        return
    for name, thought in (("reasoning_content", True), ("reasoning", True), ("content", False)):
        if isinstance(text := told.get(name), str) and text:
            yield Piece(text, thought)


def _refused(status: int, body: bytes) -> UpstreamError:
    said = _said(body)
    return UpstreamError(said if said else f"The request was answered with HTTP status {status}.")


def _said(body: bytes) -> str:
    """Return the message of an error in the format of OpenAI, Ollama or llmtunnel's proxy; empty if there is none."""
    error = _parsed(body).get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return message[:MAX_SAID] if isinstance(message, str) else ""


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
