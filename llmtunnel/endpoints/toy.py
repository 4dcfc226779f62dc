"""A toy model server with OpenAI's interface and a little of Ollama's, but without a model.

Its response depends only on the prompt. So a response through the tunnel can be compared with a direct one byte for
byte. The demo, ``llmtunnel toy``, notebooks and tests use it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Self

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from ..errors import StreamError
from . import bench
from .listen import Listen, addresses_of, open_servers, url_of

MODEL = "toy"
TOKEN_DELAY = 0.025
"""Seconds between two tokens: about the speed of a small model on a laptop."""
MAX_BODY = 16 * 1024 * 1024
CREATED = 1_767_225_600
"""Creation time of every response, as Unix time. It is constant, so that responses can be compared."""

ANSWER = (
    "I am a toy: there is no model behind me, only a few lines of Python that say this to everybody. "
    "But each of these words was an event of its own, and came to you as soon as I said it – «naïve», 你好, 🙂. "
    "You asked: "
)

Json = dict[str, Any]


class ToyError(Exception):
    """A request that the toy rejects, with the HTTP status and the code that OpenAI clients show."""

    def __init__(self, message: str, *, status: int = 400, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Toy:
    """The toy model server on one address; ``async with`` starts and stops it.

    ``delay`` is the time between two tokens, in seconds. Port 0 takes a free port; `url` contains it. With
    ``measured``, it also answers requests that measure a tunnel, as serve itself does (see `bench`). `start` raises
    `AddressInUse`, or another `SettingError` if the address cannot be used.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, delay: float = TOKEN_DELAY, measured: bool = False
    ) -> None:
        self.url = ""
        self.addresses: tuple[str, ...] = ()
        """Every address where it listens."""
        self._listen, self._delay = Listen(host=host, port=port), delay
        self._servers: list[asyncio.Server] = []
        application = self._application()
        if measured:
            _add_bench(application)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)

    async def start(self) -> None:
        """Start to listen."""
        await self._runner.setup()
        assert self._runner.server is not None, "set up"
        try:
            self._servers = await open_servers(self._listen, self._runner.server)
        except BaseException:
            await self.aclose()
            raise
        self.url = url_of(self._listen, self._servers)
        self.addresses = addresses_of(self._servers)

    async def aclose(self) -> None:
        """Stop listening, and close every connection. Idempotent."""
        for server in self._servers:
            server.close()
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_BODY, middlewares=[_errors_as_openai])
        application.router.add_get("/health", _health)
        application.router.add_get("/v1/models", _models)
        application.router.add_get("/api/tags", _tags)
        application.router.add_post("/v1/chat/completions", self._chat)
        return application

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        chat = _Chat(_parse(await request.read()))
        if not chat.streams:
            await asyncio.sleep(self._delay)
            return web.json_response(chat.whole())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        with suppress(ConnectionResetError):  # the client has left; aiohttp would log a traceback
            await response.prepare(request)
            for chunk in chat.chunks():
                await response.write(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode("utf-8", "replace"))
                await asyncio.sleep(self._delay)
            await response.write(b"data: [DONE]\n\n")
        return response


class _Chat:
    """One chat completion, which depends only on the request."""

    def __init__(self, body: Json) -> None:
        self.streams = bool(body.get("stream"))
        options = body.get("stream_options")
        self._with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self._model = str(body.get("model") or MODEL)
        prompt = _prompt(body)
        self._prompt_tokens = len(prompt.split())
        self._tokens = [word + " " for word in (ANSWER + prompt).split()]
        self._id = "chatcmpl-toy-" + hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()[:16]

    def whole(self) -> Json:
        message = {"role": "assistant", "content": "".join(self._tokens)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}

    def chunks(self) -> list[Json]:
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": token} for token in self._tokens]
        chunks = [self._chunk(delta, None) for delta in deltas] + [self._chunk({}, "stop")]
        if self._with_usage:
            chunks.append({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()})
        return chunks

    def _chunk(self, delta: Json, finish_reason: str | None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> Json:
        return {"id": self._id, "object": kind, "created": CREATED, "model": self._model}

    def _usage(self) -> Json:
        told, said = self._prompt_tokens, len(self._tokens)
        return {"prompt_tokens": told, "completion_tokens": said, "total_tokens": told + said}


async def ask(url: str, prompt: str) -> AsyncIterator[bytes]:
    """Request a streamed completion from the model server at ``url``. Yields the body's bytes as they arrive.

    Raises `StreamError` unless the response has status 200 and is complete.
    """
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": prompt}]}
    try:
        async with ClientSession(timeout=ClientTimeout(total=None, sock_read=30)) as client:
            request = client.post(f"{url}/v1/chat/completions", json=body, allow_redirects=False, raise_for_status=True)
            async with request as response:
                if response.status != 200:
                    raise StreamError(f"{url} answered with HTTP status {response.status}.")
                async for data in response.content.iter_any():
                    yield data
    except (ClientError, TimeoutError) as exc:
        raise StreamError(f"The answer from {url} did not come whole: {exc}.") from exc


def text_of(line: bytes) -> str:
    """Return the text in one line of an event stream; empty if it has none."""
    if not line.startswith(b"data: {"):
        return ""
    choices = json.loads(line.removeprefix(b"data: "))["choices"]
    return str(choices[0]["delta"].get("content", "")) if choices else ""


def _add_bench(application: web.Application) -> None:
    application.router.add_get("/small", _small)
    application.router.add_get("/source", _source)
    application.router.add_post("/sink", _sink)
    application.router.add_get("/tokens", _tokens)


async def _small(_request: web.Request) -> web.Response:
    return web.Response(body=bench.SMALL, content_type="application/json")


async def _source(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    with suppress(ConnectionError):
        await response.prepare(request)
        for _ in range(bench.MOST_BYTES // len(bench.BLOCK)):
            await response.write(bench.BLOCK)
            await asyncio.sleep(0)
    return response


async def _sink(request: web.Request) -> web.Response:
    flow = None
    async for data in request.content.iter_any():
        now = time.monotonic()
        flow = flow or bench.Flow(now)
        flow.add(len(data), now)
    return web.json_response((flow or bench.Flow(0.0)).as_dict())


async def _tokens(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    with suppress(ConnectionError):
        await response.prepare(request)
        async for event in bench.tokens(request.query_string):
            await response.write(event)
    return response


@web.middleware
async def _errors_as_openai(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except ToyError as exc:
        return _error(str(exc), exc.status, exc.code)
    except web.HTTPException as exc:
        return _error(f"{request.method} {request.path}: {exc.reason}", exc.status, "not_available")
    return response


def _error(message: str, status: int, code: str) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status)


def _parse(data: bytes) -> Json:
    try:
        body = json.loads(data)
    except ValueError as exc:
        raise ToyError(f"The body is not JSON: {exc}.", code="invalid_json") from exc
    if not isinstance(body, dict):
        raise ToyError("The body is not a JSON object.")
    return body


def _prompt(body: Json) -> str:
    """Return the text of the last message. Raises `ToyError` without messages."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        raise ToyError("'messages' must be a list of messages.")
    content = messages[-1].get("content")
    if isinstance(content, list):
        content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


async def _health(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok", "server": "llmtunnel toy"})


async def _models(_request: web.Request) -> web.Response:
    model = {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "llmtunnel demo (a toy)"}
    return web.json_response({"object": "list", "data": [model]})


async def _tags(_request: web.Request) -> web.Response:
    details = {"format": "toy", "family": "toy", "parameter_size": "0", "quantization_level": "none"}
    model = {"name": f"{MODEL}:latest", "model": f"{MODEL}:latest", "size": 0, "details": details}
    return web.json_response({"models": [model]})
