from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from llmtunnel.endpoints.toy import Toy, ask, text_of
from llmtunnel.errors import StreamError

MESSAGES = [{"role": "user", "content": "Tell me, 你好"}]


async def test_it_answers_the_openai_client_whole_and_streamed_with_the_same_words() -> None:
    # typed as Any: the client's overloads know no plain dictionaries
    async with Toy(delay=0) as toy:
        async with openai.AsyncOpenAI(base_url=f"{toy.url}/v1", api_key="none") as client:
            models = await client.models.list()
            assert [model.id for model in models.data] == ["toy"]
            chat: Any = client.chat.completions
            whole = await chat.create(model="toy", messages=MESSAGES)
            stream = await chat.create(
                model="toy", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert "toy" in text and "你好" in text
    assert whole.choices[0].finish_reason == chunks[-2].choices[0].finish_reason == "stop"
    assert whole.usage is not None and chunks[-1].usage == whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


async def test_the_same_prompt_has_the_same_answer_byte_for_byte_and_another_prompt_another() -> None:
    async with Toy(delay=0) as one, Toy(delay=0) as other:
        asked = [(one.url, "a"), (other.url, "a"), (one.url, "b")]
        first, again, different = [b"".join([data async for data in ask(url, prompt)]) for url, prompt in asked]
    assert first == again != different
    assert first.endswith(b"data: [DONE]\n\n")


async def test_words_come_one_by_one() -> None:
    async with Toy(delay=0.01) as toy:
        assert len([data async for data in ask(toy.url, "a") if data]) > 10


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/chat/completions", b"{", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b"[]", 400, "invalid_request"),
        ("POST", "/v1/chat/completions", b"{}", 400, "invalid_request"),
        ("POST", "/v1/chat/completions", b'{"messages": "x"}', 400, "invalid_request"),
        ("GET", "/v1/chat/completions", b"", 405, "not_available"),
        ("GET", "/v1/nothing", b"", 404, "not_available"),
    ],
)
async def test_a_bad_request_gets_an_error_as_openai_clients_show_it(
    method: str, path: str, body: bytes, status: int, code: str
) -> None:
    async with Toy() as toy, aiohttp.ClientSession() as client:
        async with client.request(method, toy.url + path, data=body) as response:
            got, body_got = response.status, await response.json()
    assert got == status
    assert body_got["error"]["code"] == code
    assert body_got["error"]["message"]


async def test_odd_members_of_a_request_do_no_harm() -> None:
    parts = [{"type": "text", "text": "a"}, 7]
    bodies = [
        {"messages": [{"content": parts}], "stream_options": 3, "stream": 1},
        {"messages": [{"content": "\ud800"}], "stream": True},
        {"messages": [{}], "model": None},
    ]
    statuses = []
    async with Toy(delay=0) as toy, aiohttp.ClientSession() as client:
        for body in bodies:
            async with client.post(f"{toy.url}/v1/chat/completions", data=json.dumps(body)) as response:
                await response.read()
                statuses.append(response.status)
    assert statuses == [200, 200, 200]


async def test_it_looks_like_ollama_and_says_that_it_is_well() -> None:
    async with Toy() as toy, aiohttp.ClientSession() as client:
        async with client.get(f"{toy.url}/api/tags") as response:
            assert (await response.json())["models"][0]["name"] == "toy:latest"
        async with client.get(f"{toy.url}/health") as response:
            assert (await response.json())["status"] == "ok"


async def test_an_answer_that_is_not_one_is_our_error() -> None:
    async with Toy() as toy:
        with pytest.raises(StreamError, match="did not come whole"):
            [data async for data in ask(f"{toy.url}/elsewhere", "a")]


async def test_an_answer_that_redirects_is_not_followed() -> None:
    async with Toy() as toy:

        async def redirects(_request: web.BaseRequest) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{toy.url}/v1/chat/completions"})

        runner = web.ServerRunner(web.Server(redirects))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        with pytest.raises(StreamError, match="HTTP status 307"):
            [data async for data in ask(f"http://127.0.0.1:{runner.addresses[0][1]}", "a")]
        await runner.cleanup()


async def test_a_client_that_goes_away_ends_its_answer_alone() -> None:
    async with Toy(delay=0.01) as toy:
        answer = ask(toy.url, "a")
        async for _ in answer:
            break
        await answer.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)
        assert b"".join([data async for data in ask(toy.url, "a")]).endswith(b"[DONE]\n\n")


def test_the_text_of_a_line() -> None:
    assert text_of(b'data: {"choices": [{"delta": {"content": "hi "}}]}') == "hi "
    assert text_of(b'data: {"choices": [{"delta": {}}]}') == ""
    assert text_of(b'data: {"choices": []}') == ""
    assert text_of(b"data: [DONE]") == ""
    assert text_of(b"") == ""
