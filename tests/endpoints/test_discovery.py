from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llmtunnel.endpoints import discovery
from llmtunnel.endpoints.discovery import MAX_ANSWER, PORTS, Found, choose, discover, seek
from llmtunnel.endpoints.probe import PROBE_FIELD
from llmtunnel.endpoints.responses import PROBED
from llmtunnel.errors import UpstreamNotFound
from tests.conftest import run

OPENAI = {"object": "list", "data": [{"id": "m1", "object": "model", "owned_by": "me"}, {"id": "m2"}]}
TAGS = {"models": [{"name": "llama3:8b", "size": 1}, {"name": "qwen3:4b"}]}

Answers = dict[str, object]


@asynccontextmanager
async def server(
    answers: Answers, *, status: int = 200, heads: list[bytes] | None = None, workers: int = 100
) -> AsyncIterator[int]:
    """Answers each path with JSON, any other with a page; gives its port. A connection holds one of its workers."""
    free = asyncio.Semaphore(workers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with free:
            await answer_all(reader, writer)

    async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if heads is not None:
                    heads.append(head)
                answer = answers.get(head.split()[1].decode(), "<!doctype html>")
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                code = status if head.split()[1].decode() in answers else 404
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (code, len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await listener.wait_closed()


@pytest.mark.parametrize("path", ["/get_model_info", "/v1/models"])
async def test_a_server_with_one_worker_is_found_since_no_connection_holds_it(path: str) -> None:
    answers: Answers = {path: OPENAI if path == "/v1/models" else {"model_path": "m"}}

    async with server(answers, workers=1) as port:
        assert [found.port for found in await discover(ports=[port])] == [port]


def look_at(answers: Answers, *, status: int = 200) -> list[tuple[str, tuple[str, ...]]]:
    async def main() -> list[tuple[str, tuple[str, ...]]]:
        async with server(answers, status=status) as port:
            found = await discover(ports=[port])
            assert all(each.port == port for each in found)
            return [(each.name, each.models) for each in found]

    return run(main())


@pytest.mark.parametrize(
    ("answers", "name", "models"),
    [
        ({"/api/tags": TAGS, "/v1/models": OPENAI}, "Ollama", ("llama3:8b", "qwen3:4b")),
        ({"/api/tags": {"models": []}}, "Ollama", ()),
        (
            {"/v1/models": {"object": "list", "data": [{"id": "meta/llama", "owned_by": "vllm"}]}},
            "vLLM",
            ("meta/llama",),
        ),
        (
            {"/props": {"default_generation_settings": {}, "model_path": "/m.gguf"}, "/api/tags": TAGS},
            "llama.cpp",
            ("/m.gguf",),
        ),
        ({"/props": {"default_generation_settings": {}}, "/v1/models": OPENAI}, "llama.cpp", ()),
        ({"/get_model_info": {"model_path": "q/w", "is_generation": True}, "/v1/models": OPENAI}, "SGLang", ("q/w",)),
        ({"/info": {"model_id": "b/s", "max_total_tokens": 4096}}, "TGI", ("b/s",)),
        (
            {"/api/v0/models": OPENAI, "/v1/models": OPENAI, "/api/tags": {"error": "Unexpected endpoint"}},
            "LM Studio",
            ("m1", "m2"),
        ),
        ({"/v1/models": OPENAI}, "an OpenAI-compatible server", ("m1", "m2")),
    ],
)
def test_a_model_server_is_recognised_by_what_only_it_answers(
    answers: Answers, name: str, models: tuple[str, ...]
) -> None:
    assert look_at(answers) == [(name, models)]


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"/v1/models": []},
        {"/v1/models": {"data": "x"}, "/api/tags": {"models": None}, "/info": {"model_id": "a text embedder"}},
        {"/v1/models": b"{", "/api/tags": b"[" * 100_000, "/props": b"\xff\xfe"},
        {"/api/tags": b'{"models":[]' + b" " * 2 * MAX_ANSWER + b"}"},
    ],
)
def test_what_is_no_model_server_is_not_found(answers: Answers) -> None:
    assert look_at(answers) == []


@pytest.mark.parametrize("status", [301, 401, 404, 500])
def test_an_answer_that_is_not_200_does_not_count(status: int) -> None:
    assert look_at({"/api/tags": TAGS}, status=status) == []


def test_a_rubbish_entry_in_a_list_is_left_out() -> None:
    assert look_at({"/api/tags": {"models": [None, {"name": 5}, {"name": "x"}]}}) == [("Ollama", ("x",))]


def test_a_proxy_of_ours_that_answers_the_probe_is_not_found() -> None:
    everything: Answers = dict.fromkeys(["/api/tags", "/v1/models", "/info", "/props"], PROBED.response()[1])
    assert look_at(everything, status=PROBED.status) == []


async def test_every_request_carries_the_probe_field() -> None:
    heads: list[bytes] = []
    async with server({"/api/tags": TAGS}, heads=heads) as port:
        assert await discover(ports=[port])
    assert heads
    assert all(PROBE_FIELD.lower() + b": 1" in head.lower() for head in heads)


async def test_several_ports_are_looked_at_side_by_side_and_some_avoided() -> None:
    async with server({"/api/tags": TAGS}) as one, server({"/v1/models": OPENAI}) as two:
        ports = [one, unused(), two]
        assert [found.port for found in await discover(ports=ports)] == [one, two]
        assert [found.port for found in await discover(avoid={one}, ports=ports)] == [two]


@pytest.mark.within(10)
async def test_a_server_that_never_answers_is_given_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with silent, server({"/api/tags": TAGS}) as port:
        found = await discover(ports=[silent.sockets[0].getsockname()[1], port])
        assert [each.port for each in found] == [port]


def test_the_only_server_found_is_the_upstream() -> None:
    assert str(choose([Found(name="Ollama", port=11434)])) == "http://localhost:11434"


def test_none_found_says_where_it_looked() -> None:
    with pytest.raises(UpstreamNotFound) as caught:
        choose([])
    assert caught.value.exit_code == 2
    assert all(str(port) in caught.value.message for port in PORTS)
    assert "--upstream" in caught.value.hint


def test_several_found_are_listed_with_their_models() -> None:
    found = [
        Found(name="Ollama", port=11434, models=("a", "b", "c", "d")),
        Found(name="vLLM", port=8000),
    ]
    with pytest.raises(UpstreamNotFound) as caught:
        choose(found)
    assert "Ollama on port 11434 (a, b, c, …); vLLM on port 8000." in caught.value.message
    assert "--upstream 11434" in caught.value.hint


def unused() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def test_one_that_comes_later_is_found_and_what_stands_in_the_way_is_told_where_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ollama, vllm = Found(name="Ollama", port=1), Found(name="vLLM", port=2)
    looks = [[], [], [ollama, vllm], [vllm]]

    async def look() -> list[Found]:
        return looks.pop(0)

    told: list[str] = []
    monkeypatch.setattr(discovery, "discover", look)
    monkeypatch.setattr(discovery, "SEEK_EVERY", 0.0)
    assert str(await seek(lambda exc: told.append(exc.message))) == "http://localhost:2"
    assert [message.split()[0] for message in told] == ["No", "Several"]
