"""The openai package, as an application uses it, through the tunnel to the toy model server."""

from __future__ import annotations

import json

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from ..support.processes import Process, Processes, Signal, Tunnel

QUESTION = "What is a tunnel, naïvely? 你好 🙂"
ASKED: ChatCompletionUserMessageParam = {"role": "user", "content": QUESTION}

TOY = """
import asyncio
from llmtunnel.endpoints.toy import Toy

async def main() -> None:
    async with Toy() as toy:
        print("toy at", toy.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def toy(started: Processes) -> str:
    """Where the toy model server is."""
    process: Process = started.start("-c", TOY, name="toy")
    return process.wait_line(r"toy at (\S+)")[1]


@pytest.fixture(scope="module")
def toy_tunnel(started: Processes, toy: str, signal: Signal) -> Tunnel:
    """A tunnel to it."""
    return started.tunnel("openai", toy, signal.url)


def client(url: str) -> openai.OpenAI:
    """A client that does not try again by itself: a test shall see each error."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sk-any", max_retries=0, timeout=20)


def streamed(url: str) -> list[str]:
    """The pieces of a streamed answer."""
    with client(url) as api:
        stream = api.chat.completions.create(model="toy", messages=[ASKED], stream=True)
        return [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]


def test_a_streamed_completion_through_the_tunnel_equals_the_direct_one(toy: str, toy_tunnel: Tunnel) -> None:
    pieces = streamed(toy_tunnel.url)
    assert pieces == streamed(toy)
    assert QUESTION in "".join(pieces)
    assert len(pieces) > 20


def test_a_whole_completion_and_the_list_of_models_pass(toy_tunnel: Tunnel) -> None:
    with client(toy_tunnel.url) as api:
        answer = api.chat.completions.create(model="toy", messages=[ASKED])
        assert QUESTION in str(answer.choices[0].message.content)
        assert [model.id for model in api.models.list()] == ["toy"]


def test_an_error_of_the_model_server_is_the_one_that_the_application_sees(toy_tunnel: Tunnel) -> None:
    with client(toy_tunnel.url) as api, pytest.raises(openai.BadRequestError) as raised:
        api.chat.completions.create(model="toy", messages=[])
    assert "messages" in raised.value.message


def test_an_error_of_the_tunnel_is_shown_as_one_with_what_to_do(processes: Processes, signal: Signal) -> None:
    proxy = processes.proxy("openai alone", signal.url)
    with client(proxy.url) as api, pytest.raises(openai.APIStatusError) as raised:
        api.models.list()
    assert raised.value.status_code == 503
    error = json.loads(raised.value.response.text)["error"]
    assert error["message"] in raised.value.message
