"""The chat in a cell: its widgets with real servers, and all of it in a real kernel through a real tunnel."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import pytest
from aiohttp import web

import llmtunnel
from llmtunnel.endpoints.toy import Toy
from llmtunnel.errors import TunnelError
from llmtunnel.notebook import display
from llmtunnel.notebook.chat import FOLLOWS, Chat

from ..support.background import SERVED, Background
from ..support.embedded import until
from ..support.kernel import Kernel
from ..support.scripted_handle import HOSTILE

Sent = list[dict[str, Any]]


class Endless:
    """A model server that says one thing after the other until its client leaves, and remembers what it was asked."""

    left = threading.Event()
    asked: ClassVar[list[Any]] = []
    says = "word "
    knows_models = True

    async def __aenter__(self) -> Self:
        self.left.clear()
        self.asked.clear()
        application = web.Application()
        application.router.add_get("/v1/models", self._models)
        application.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        if not self.knows_models:
            raise web.HTTPNotFound
        return web.json_response({"data": [{"id": "endless"}, {"id": HOSTILE}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        event = {"choices": [{"delta": {"content": self.says}}]}
        try:
            while True:
                await response.write(f"data: {json.dumps(event)}\n\n".encode())
                await asyncio.sleep(0.02)
        finally:
            self.left.set()
        return response


class Hostile(Endless):
    says = HOSTILE


def shown(chat: Chat) -> str:
    """The conversation as HTML."""
    return "".join(each.value for each in chat.log.children)


async def ready(chat: Chat) -> Chat:
    """Return when it has models to choose from."""
    await until(lambda: bool(chat.model.value) and not chat.buttons["Send"].disabled)
    return chat


def press_enter(chat: Chat) -> None:
    chat.text._handle_custom_msg({"event": "submit"}, [])


def say(chat: Chat, words: str) -> None:
    """Write this, and press Enter: a page sends the key first."""
    press_enter(chat)
    chat.text.value = words


async def whole(chat: Chat) -> None:
    """Return when no answer is under way."""
    await until(lambda: not chat.busy)


async def answered(chat: Chat, words: str) -> None:
    """Return when an answer to these words has ended."""
    await until(lambda: f"{words}</div>" in shown(chat))
    await whole(chat)


@pytest.fixture(autouse=True)
def page(sent: Sent) -> Sent:
    return sent


# -- its widgets


async def test_a_conversation_goes_to_the_model_as_it_grows() -> None:
    async with Toy(delay=0) as toy:
        chat = await ready(Chat(toy.url, loop=asyncio.get_running_loop()))
        assert chat.model.options == ("toy",)
        for words in ("first", "second"):
            say(chat, words)
            await answered(chat, words)
            assert chat.text.value == ""
        assert [each["role"] for each in chat.messages] == ["user", "assistant"] * 2
        assert [each["content"] for each in chat.messages[::2]] == ["first", "second"]
        assert chat.messages[3]["content"].endswith("You asked: second ")
        assert shown(chat).count("I am a toy") == 2
        chat.clear()
        await until(lambda: (shown(chat), chat.messages) == ("", []))


async def test_an_answer_grows_on_the_page_with_few_messages_and_stop_reaches_the_server(page: Sent) -> None:
    async with Endless() as server:
        chat = await ready(Chat(server.url, loop=asyncio.get_running_loop()))
        say(chat, "go on")
        await until(lambda: shown(chat).count("word") > 10)
        assert (chat.buttons["Stop"].disabled, chat.buttons["Send"].disabled) == (False, True)
        say(chat, "more")
        await asyncio.sleep(0)
        assert len(server.asked) == 1, "one at a time"
        assert chat.text.value == "more"
        chat.buttons["Stop"].click()
        await until(lambda: not chat.busy)
        assert await asyncio.to_thread(server.left.wait, 20)
        assert "(stopped)" in shown(chat)
        words = shown(chat).count("word")
        drawings = [each for each in page if "word" in str(each["data"].get("state", {}).get("value"))]
        assert len(drawings) < words
        assert chat.messages[-1]["content"] == "word " * words
        assert (chat.buttons["Stop"].disabled, chat.buttons["Send"].disabled) == (True, False)


async def test_what_models_and_people_say_is_text_and_nothing_else() -> None:
    async with Hostile() as server:
        chat = await ready(Chat(server.url, loop=asyncio.get_running_loop()))
        chat.model.value = HOSTILE
        say(chat, f"<b>{HOSTILE}")
        await until(lambda: shown(chat).count("&lt;script&gt;") > 3)
        chat.stop()
        await until(lambda: "(stopped)" in shown(chat))
        assert "<script" not in shown(chat)
        assert "<img" not in shown(chat)
        assert "<b>" not in shown(chat)
        assert server.asked[0]["messages"][0]["content"] == f"<b>{HOSTILE}"


async def test_a_server_that_is_no_chat_server_is_told_and_may_become_one() -> None:
    async with Endless() as server:
        server.knows_models = False
        chat = Chat(server.url, loop=asyncio.get_running_loop())
        await until(lambda: "has no list of models" in chat.note.value)
        await whole(chat)
        assert chat.buttons["Send"].disabled
        say(chat, "hello")
        await asyncio.sleep(0)
        assert shown(chat) == ""
        server.knows_models = True
        chat.reload()
        await ready(chat)
        assert chat.note.value == ""


async def test_a_message_that_fails_says_why_and_is_sent_again_unless_another_one_is_typed() -> None:
    async with Endless() as server:
        chat = await ready(Chat(server.url, loop=asyncio.get_running_loop()))
    say(chat, "hello")
    await answered(chat, "hello")
    assert "The proxy does not answer" in chat.note.value
    assert "Press Send to send the message again" in chat.note.value
    assert "(no answer)" in shown(chat)
    assert chat.messages == []
    chat.send()
    await until(lambda: shown(chat).count("(no answer)") == 2)
    await whole(chat)
    assert shown(chat).count("hello</div>") == 2
    say(chat, "other")
    await answered(chat, "other")
    chat.clear()
    await until(lambda: shown(chat) == "")
    chat.send()
    await asyncio.sleep(0)
    assert shown(chat) == "", "what was deleted is not sent again"


async def test_a_text_that_was_there_before_its_enter_is_sent_too_and_one_that_comes_later_is_not() -> None:
    async with Toy(delay=0) as toy:
        chat = await ready(Chat(toy.url, loop=asyncio.get_running_loop()))
        chat.text.value = "known"
        press_enter(chat)
        await answered(chat, "known")
        press_enter(chat)
        await asyncio.sleep(FOLLOWS + 0.1)
        chat.text.value = "later"
        await asyncio.sleep(0.1)
        assert "later" not in shown(chat)
        chat.close()


async def test_closing_it_ends_its_answer_and_takes_it_off_the_page() -> None:
    async with Endless() as server:
        chat = await ready(Chat(server.url, loop=asyncio.get_running_loop()))
        say(chat, "go on")
        await until(lambda: "word" in shown(chat))
        chat.close()
        chat.close()
        assert await asyncio.to_thread(server.left.wait, 20)
        await whole(chat)
        assert "closed" in repr(chat)
        assert chat.widget.comm is None


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "never started"])
def test_a_tunnel_that_does_not_run_has_no_chat(closed: bool) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    chat = Chat("http://127.0.0.1:1", loop=loop if closed else None)
    assert "The tunnel is closed" in chat.note.value
    chat.stop()
    chat.close()


async def test_where_there_is_no_notebook_it_says_what_to_use() -> None:
    with Background(Toy) as other:
        async with llmtunnel.aio.proxy(room=SERVED, signal=other.signal, stun=(), listen="127.0.0.1:0") as proxy:
            with pytest.raises(TunnelError, match="not a notebook") as caught:
                proxy.chat()
            assert proxy.openai_base_url in caught.value.hint


async def test_it_uses_the_key_that_the_listener_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "has_widgets", lambda: True)
    with Background(Toy) as other:
        given: dict[str, Any] = {"room": SERVED, "signal": other.signal, "stun": (), "listen": "127.0.0.1:0"}
        async with llmtunnel.aio.proxy(**given, api_key="a-listeners-key") as proxy:
            chat = await ready(proxy.chat())
            say(chat, "hello")
            await answered(chat, "hello")
            assert chat.messages[-1]["content"].endswith("hello ")
            assert "a-listeners-key" not in shown(chat) + repr(chat) + str(chat.widget.get_state())
            chat.close()


# -- in a kernel, through a tunnel


@pytest.fixture(scope="module")
def other() -> Iterator[Background]:
    with Background(Endless) as background:  # type: ignore[arg-type]
        yield background


@pytest.fixture(scope="module")
def setup(other: Background) -> str:
    return f"""
import asyncio, time
import llmtunnel
common = dict(room={SERVED!r}, signal={other.signal!r}, stun=(), listen="127.0.0.1:0")
def said(chat):
    return "".join(each.value for each in chat.log.children)
"""


def until_true(notebook: Kernel, expression: str) -> None:
    """Return when it is true in the kernel, whose loop goes on meanwhile."""
    notebook.run(
        f"for _ in range(1200):\n    if {expression}: break\n    await asyncio.sleep(0.05)\nelse: raise TimeoutError"
    )


WAYS = {
    "on the loop thread": "proxy = llmtunnel.proxy(**common)",
    "on the notebook's loop": "proxy = await llmtunnel.aio.proxy(**common)",
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_shown_streams_and_stops_up_to_the_upstream(started: Kernel, way: str) -> None:
    Endless.left.clear()
    started.run(WAYS[way])
    cell = started.run("chat = proxy.chat()\nchat")
    note, view = cell.displayed
    assert "Run the cell again" in note["text/html"]
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"] == started.value("chat.widget.model_id")
    until_true(started, "chat.model.value")
    press = {"method": "custom", "content": {"event": "submit"}}
    model = started.value("chat.text.model_id")
    started.client.shell_channel.send(started.client.session.msg("comm_msg", {"comm_id": model, "data": press}))
    started.change(model, value="go on")
    until_true(started, "said(chat).count('word') > 3")
    if way == "on the loop thread":
        before, after = started.value("[said(chat).count('word'), time.sleep(1.5), said(chat).count('word')][::2]")
        assert after > before, "it comes while a cell keeps the kernel"
    assert not Endless.left.is_set()
    click = {"method": "custom", "content": {"event": "click"}}
    model = started.value("chat.buttons['Stop'].model_id")
    started.client.shell_channel.send(started.client.session.msg("comm_msg", {"comm_id": model, "data": click}))
    until_true(started, "'(stopped)' in said(chat)")
    assert Endless.left.wait(20), "the upstream hears of it"
    assert started.value("proxy.requests()[-1]['path']") == "/v1/chat/completions"
    started.run("chat.close()")
    started.run("await proxy.aclose()" if "await" in WAYS[way] else "proxy.close()")
