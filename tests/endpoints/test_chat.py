"""The chat's client against servers on sockets; through a tunnel it is in tests/notebook/test_chat.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from llmtunnel.endpoints import chat
from llmtunnel.endpoints.chat import MAX_LINE, MAX_SAID, Piece
from llmtunnel.endpoints.toy import Toy
from llmtunnel.errors import UpstreamError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HELLO: list[chat.Message] = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def serving(**handlers: Handler) -> AsyncIterator[str]:
    """A server with a handler for ``models``, ``tags`` or ``chat``; all else is 404 in aiohttp's way."""
    paths = {"models": ("GET", "/v1/models"), "tags": ("GET", "/api/tags"), "chat": ("POST", "/v1/chat/completions")}
    application = web.Application()
    for name, handler in handlers.items():
        application.router.add_route(*paths[name], handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answering(body: Any, status: int = 200, kind: str = "application/json") -> Handler:
    async def handler(request: web.Request) -> web.Response:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(text=text, status=status, content_type=kind)

    return handler


def streaming(*events: Any) -> Handler:
    return answering("".join(f"data: {json.dumps(event)}\n\n" for event in events), kind="text/event-stream")


def delta(**told: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": told}]}


async def asked(url: str, key: str = "") -> list[Piece]:
    return [piece async for piece in chat.answer(url, "m", HELLO, key=key)]


# -- models


async def test_models_are_those_of_openais_list_or_else_of_ollamas() -> None:
    openai, ollama = answering({"data": [{"id": "a"}, {"id": "b"}]}), answering({"models": [{"name": "c:latest"}]})
    async with serving(models=openai, tags=ollama) as url:
        assert await chat.models(url) == ("a", "b")
    async with serving(tags=ollama) as url:
        assert await chat.models(url) == ("c:latest",)


@pytest.mark.parametrize(
    ("handler", "message", "hint"),
    [
        (answering({"data": []}), "has no model yet", "ollama pull"),
        (answering("<html>a page</html>", kind="text/html"), "is not a chat server", "Ollama, vLLM"),
        (answering("gone", 404), "is not a chat server", "Ollama, vLLM"),
        (answering({"error": {"message": "Wrong key."}}, 401), "^Wrong key.$", ""),
        (answering("down", 502), "HTTP status 502", ""),
    ],
)
async def test_a_server_without_models_is_told_by_what_it_lacks(handler: Handler, message: str, hint: str) -> None:
    async with serving(models=handler) as url:
        with pytest.raises(UpstreamError, match=message) as caught:
            await chat.models(url)
    assert hint in caught.value.hint


async def test_a_proxy_that_is_gone_is_told() -> None:
    async with serving() as url:
        pass
    for asking in (chat.models(url), asked(url)):
        with pytest.raises(UpstreamError, match="The proxy does not answer"):
            await asking


# -- answers


async def test_an_answer_comes_piece_by_piece_as_the_model_says_it() -> None:
    async with Toy(delay=0.01) as toy:
        async with aclosing(chat.answer(toy.url, "toy", HELLO)) as pieces:
            begun = asyncio.get_running_loop().time()
            first = await anext(pieces)
            soon = asyncio.get_running_loop().time() - begun
            rest = [piece async for piece in pieces]
            whole = asyncio.get_running_loop().time() - begun
    text = "".join(piece.text for piece in (first, *rest))
    assert text.startswith("I am a toy")
    assert text.endswith("hello ")
    assert "你好, 🙂" in text
    assert soon < whole / 2


async def test_what_a_model_thinks_is_told_from_what_it_says() -> None:
    events = (
        *(delta(role="assistant", content=""), delta(reasoning_content="hm"), delta(reasoning="m")),
        *({**delta(content="Yes"), "error": None}, {"choices": [], "usage": {}}, {"choices": [{"delta": None}]}, []),
    )
    async with serving(chat=streaming(*events)) as url:
        assert await asked(url) == [Piece("hm", True), Piece("m", True), Piece("Yes", False)]


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("<think>\nhm <b> </ thin\n</think>\n\nYes </think>", "\nhm <b> </ thin\n", "Yes </think>"),
        ("\n<think>\n\n</think>\n\nYes", "\n\n", "Yes"),
        ("<think>hm </thin", "hm </thin", ""),
        ("<think></think>", "", ""),
        ("<thin", "", "<thin"),
        (" <thinker>", "", " <thinker>"),
        ("Yes <think>no</think>", "", "Yes <think>no</think>"),
        (" " * 200, "", " " * 200),
    ],
)
async def test_thoughts_that_a_server_leaves_in_the_text_are_told_apart(
    text: str, thoughts: str, answer: str, size: int
) -> None:
    events = [delta(content=text[at : at + size]) for at in range(0, len(text), size)]
    async with serving(chat=streaming(*events)) as url:
        pieces = await asked(url)
    assert "".join(piece.text for piece in pieces if piece.thought) == thoughts
    assert "".join(piece.text for piece in pieces if not piece.thought) == answer
    assert [piece.thought for piece in pieces] == sorted((piece.thought for piece in pieces), reverse=True)


async def test_only_what_may_be_a_tag_waits_for_the_next_piece() -> None:
    async with serving(
        chat=streaming(*(delta(content=text) for text in ("<", "think>a", "b<", "c", "</think>", "d")))
    ) as url:
        assert await asked(url) == [Piece("a", True), Piece("b", True), Piece("<c", True), Piece("d", False)]


async def test_space_without_end_is_not_held() -> None:
    async with serving(chat=streaming(*[delta(content=" " * 10)] * 20)) as url:
        assert len(await asked(url)) == 14


async def test_an_answer_that_comes_whole_is_one_piece() -> None:
    whole = {"choices": [{"message": {"role": "assistant", "content": "Yes"}}]}
    async with serving(chat=answering(whole)) as url:
        assert await asked(url) == [Piece("Yes", False)]


async def test_the_request_has_the_conversation_and_the_key_as_a_bearer() -> None:
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.extend((await request.json(), request.headers.get("Authorization")))
        return await streaming(delta(content="Yes"))(request)

    async with serving(chat=handler) as url:
        await asked(url, key="k")
        await asked(url)
    body = {"model": "m", "messages": HELLO, "stream": True}
    assert seen == [body, "Bearer k", body, None]


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (answering({"error": {"message": "The model 'm' does not exist."}}, 404), "^The model 'm' does not exist.$"),
        (answering({"error": "model 'm' not found"}, 404), "^model 'm' not found$"),
        (answering({"error": "x" * 10_000}, 500), f"^{'x' * MAX_SAID}$"),
        (answering({"error": {}}, 500), "HTTP status 500"),
        (answering("a page", 404), "not a chat server: it has no /v1/chat/completions"),
        (answering("a page", kind="text/html"), "a response of type text/html"),
        (
            streaming(delta(content="a"), {"error": {"message": "no memory"}}),
            "^The model server says: no memory$",
        ),
        (answering("x" * (MAX_LINE + 1), kind="text/event-stream"), "an event of more than"),
    ],
)
async def test_an_answer_that_fails_says_what_the_server_says(handler: Handler, message: str) -> None:
    async with serving(chat=handler) as url:
        with pytest.raises(UpstreamError, match=message):
            await asked(url)


async def test_an_answer_that_breaks_off_is_told_after_what_came() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
        assert request.transport is not None
        request.transport.abort()
        return response

    async with serving(chat=handler) as url:
        pieces = chat.answer(url, "m", HELLO)
        assert await anext(pieces) == Piece("a", False)
        with pytest.raises(UpstreamError, match="broke off"):
            await anext(pieces)


async def test_who_stops_iterating_ends_the_request() -> None:
    left = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return response

    async with serving(chat=handler) as url:
        async with aclosing(chat.answer(url, "m", HELLO)) as pieces:
            await anext(pieces)
            assert not left.is_set()
        await asyncio.wait_for(left.wait(), 20)
