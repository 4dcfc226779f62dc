from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.endpoints.models import MAX_ANSWER, Answer, look, models_through, read_models
from llmtunnel.errors import ErrorCode, UpstreamError
from llmtunnel.protocol.heads import ResponseHead
from llmtunnel.session.stream import Stream

from ..support.gateway_rig import answering, ok, tunnel

OPENAI = b'{"object":"list","data":[{"id":"a","object":"model"},{"id":"b"}]}'
OLLAMA = b'{"models":[{"name":"a:8b","model":"a:8b"}]}'

KEYS = st.sampled_from(["data", "models", "id", "name"]) | st.text(max_size=2)
ANSWERS = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)
)


class Service:
    """Answers these bodies at these paths, 404 elsewhere, and remembers what was asked for."""

    def __init__(self, bodies: dict[bytes, bytes], *, other: int = 404) -> None:
        self.asked: list[bytes] = []
        self._bodies = bodies
        self._other = other

    async def __call__(self, path: bytes) -> Answer:
        self.asked.append(path)
        return Answer.of(200, self._bodies[path]) if path in self._bodies else Answer.of(self._other, b"{}")

    async def handle(self, stream: Stream) -> None:
        """The same, behind a session."""
        path = stream.request.target
        self.asked.append(path)
        assert stream.client.left, "serve keeps no connection for a next request"
        status = 200 if path in self._bodies else self._other
        await stream.send_response(ResponseHead(status=103))
        await stream.send_response(ok(status=status))
        await stream.send(self._bodies.get(path, b"none"))
        await stream.send_end()


@pytest.mark.parametrize(
    ("body", "models"),
    [
        (OPENAI, ("a", "b")),
        (OLLAMA, ("a:8b",)),
        (b'{"models":[]}', ()),
        (b'{"data":null}', None),
        (b'{"data":[{"id":7},"x",{}]}', ()),
        (b'{"data":null,"models":[{"name":"a"}]}', ("a",)),
        (b"[]", None),
        (b"<html>", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b"9" * 5000, None),
    ],
)
def test_a_list_of_models_is_read_in_both_dialects(body: bytes, models: tuple[str, ...] | None) -> None:
    assert read_models(body) == models


@given(ANSWERS)
def test_any_json_is_a_list_of_names_or_none(value: object) -> None:
    models = read_models(json.dumps(value).encode())
    assert models is None or all(isinstance(model, str) for model in models)


@pytest.mark.parametrize(
    ("bodies", "models", "asked"),
    [
        ({b"/v1/models": OPENAI, b"/api/tags": OLLAMA}, ("a", "b"), 1),
        ({b"/v1/models": b'{"data":null}', b"/api/tags": b'{"models":[]}'}, (), 2),
        ({b"/models": OPENAI}, ("a", "b"), 3),
        ({}, None, 3),
    ],
)
async def test_paths_are_asked_for_until_one_lists_models(
    bodies: dict[bytes, bytes], models: tuple[str, ...] | None, asked: int
) -> None:
    service = Service(bodies)
    assert (await look(service)).models == models
    assert len(service.asked) == asked


# -- through a session


async def test_a_proxy_has_the_models_of_the_other_side() -> None:
    async with tunnel(Service({b"/api/tags": OLLAMA}).handle) as rig:
        assert await models_through(rig.proxy) == ("a:8b",)
        assert rig.proxy.active == 0
        assert not rig.records


@pytest.mark.parametrize("other", [404, 405, 301, 200])
async def test_a_service_that_is_no_model_server_has_none(other: int) -> None:
    async with tunnel(Service({}, other=other).handle) as rig:
        assert await models_through(rig.proxy) == ()


@pytest.mark.parametrize(
    ("other", "hint"), [(401, "--upstream-header"), (403, "--policy"), (429, "--max-"), (502, "running"), (500, "log")]
)
async def test_a_refusal_is_told_with_what_to_do(other: int, hint: str) -> None:
    async with tunnel(Service({}, other=other).handle) as rig:
        with pytest.raises(UpstreamError, match=str(other)) as caught:
            await models_through(rig.proxy)
        assert hint in caught.value.hint


async def test_an_answer_that_breaks_off_is_told() -> None:
    async def handle(stream: Stream) -> None:
        await stream.send_response(ok())
        stream.reset(ErrorCode.UPSTREAM, "The upstream broke the connection off.")

    async with tunnel(handle) as rig:
        with pytest.raises(UpstreamError, match="broke the connection off"):
            await models_through(rig.proxy)


async def test_an_answer_that_does_not_come_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmtunnel.endpoints.models._PATIENCE", 0.05)

    async def handle(stream: Stream) -> None:
        await asyncio.Event().wait()

    async with tunnel(handle) as rig:
        with pytest.raises(UpstreamError, match=r"within 0\.05 s"):
            await models_through(rig.proxy)
        assert rig.proxy.active == 0


async def test_an_answer_without_end_is_read_to_a_limit() -> None:
    async with tunnel(answering(b" " * (2 * MAX_ANSWER) + OPENAI)) as rig:
        assert await models_through(rig.proxy) == ()
