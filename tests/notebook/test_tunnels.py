"""Tunnels in a real kernel: what cells do to them, and what they do to cells."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import llmtunnel
from llmtunnel.endpoints.toy import Toy
from llmtunnel.status import Notice, PeerLostNotice, Phase

from ..support import ports
from ..support.background import SERVED, Background
from ..support.kernel import PATIENCE, Kernel, kernel


@pytest.fixture(scope="module")
def other() -> Iterator[Background]:
    with Background(Toy) as background:
        yield background


@pytest.fixture(scope="module")
def setup(other: Background) -> str:
    """What cells know."""
    common = {"signal": other.signal, "stun": ()}
    return f"""
import asyncio, threading, time
import llmtunnel, openai, httpx
common = {common!r}
upstream = {other.upstream!r}

def connected(**more):
    return llmtunnel.proxy(room={SERVED!r}, listen="127.0.0.1:0", **common, **more)

def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("llmtunnel")]
"""


@pytest.fixture
def notebook(started: Kernel) -> Iterator[Kernel]:
    yield started
    assert started.value("threads()") == []


def fetch(url: str) -> None:
    assert b"toy" in ports.fetch(f"{url}/v1/models")


@pytest.mark.parametrize(
    ("blocks", "requests"),
    [
        ("time.sleep(1)", 100),
        ("sum(range(100_000))", 10),
    ],
    ids=["sleeps", "computes"],
)
def test_while_a_cell_blocks_requests_go_through_and_none_waits_for_it(
    notebook: Kernel, other: Background, tmp_path: Path, blocks: str, requests: int
) -> None:
    """The cell ends when all of them have been answered: one that waited for it would wait for ever."""
    answered = tmp_path / "answered"
    code = notebook.value("[server := llmtunnel.serve(upstream, **common), server.invite.code][1]")
    with llmtunnel.proxy(code, stun=(), listen="127.0.0.1:0") as proxy:
        fetch(proxy.url)
        sent = notebook.begin(f"import os\nprint('begun')\nwhile not os.path.exists({str(answered)!r}): {blocks}")
        notebook.until_said(sent, "begun")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fetch, [proxy.url] * requests))
        answered.touch()
        assert notebook.finish(sent).status == "ok"
    notebook.run("server.close()")


ASKED = """
with {opened} as proxy:
    {asked}
print(answer.choices[0].message.content)
"""
CREATE = 'client.chat.completions.create(model="toy", messages=[{"role": "user", "content": "hello"}])'


def test_a_blocking_openai_client_uses_a_proxy_in_its_own_notebook(notebook: Kernel) -> None:
    asked = (
        f"with proxy.environ(), openai.OpenAI(http_client=httpx.Client(trust_env=False)) as client: answer = {CREATE}"
    )
    assert "I am a toy" in notebook.run(ASKED.format(opened="connected()", asked=asked)).text


def test_in_the_notebooks_own_loop_an_async_client_uses_it(notebook: Kernel) -> None:
    asked = (
        "assert threads() == []\n"
        "    direct, url = httpx.AsyncClient(trust_env=False), proxy.openai_base_url\n"
        '    async with openai.AsyncOpenAI(base_url=url, api_key="none", http_client=direct) as client:\n'
        f"        answer = await {CREATE}"
    )
    assert "I am a toy" in notebook.run(ASKED.format(opened="connected(in_loop=True)", asked=asked)).text


def test_the_async_interface_runs_there_without_any_patch(tmp_path: Path, setup: str) -> None:
    cell = f"""
async with llmtunnel.aio.proxy(room={SERVED!r}, listen="127.0.0.1:0", **common) as proxy:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{{proxy.url}}/v1/models")
print(answer.status_code, hasattr(asyncio, "_nest_patched"), threads())
"""
    with kernel(tmp_path, code=setup) as notebook:
        assert notebook.run(cell).text == "200 False []\n"


@pytest.mark.parametrize("in_loop", [False, True])
def test_interrupting_a_cell_ends_what_it_waits_for_and_nothing_else(notebook: Kernel, in_loop: bool) -> None:
    url = notebook.value(f"[proxy := connected(in_loop={in_loop}), proxy.url][1]")
    sent = notebook.begin("print('waiting', flush=True); proxy.wait(llmtunnel.Phase.STOPPED, timeout=None)")
    notebook.until_said(sent, "waiting")
    time.sleep(0.2)  # from the word to the wait
    notebook.manager.interrupt_kernel()
    cell = notebook.finish(sent)
    assert cell.status == "error"
    assert "KeyboardInterrupt" in cell.failure
    assert notebook.value("str(proxy.status.phase)") == "ready"
    if not in_loop:
        fetch(url)
    notebook.run("proxy.close()")


def test_a_cell_that_drops_its_handle_as_it_runs_again_is_told_that_the_tunnel_goes_on(notebook: Kernel) -> None:
    notebook.run("%load_ext llmtunnel\nholds = []")
    again = "proxy = connected(); holds.append(proxy._hold); import gc; gc.collect()"
    assert "unclosed llmtunnel" not in notebook.run(again).text
    assert "unclosed llmtunnel proxy: http://127.0.0.1:" in notebook.run(again).text
    notebook.run("for hold in holds: hold.close()")


@pytest.mark.parametrize("patched", ["nest_asyncio2", "nest_asyncio"])
@pytest.mark.parametrize("in_loop", [False, True])
def test_a_notebook_that_has_patched_its_loop_already_works(
    tmp_path: Path, setup: str, patched: str, in_loop: bool
) -> None:
    pytest.importorskip(patched, reason="it comes with the tests, not with llmtunnel")
    with kernel(tmp_path, code=f"import {patched}; {patched}.apply()\n{setup}") as notebook:
        ask = "client.get(f'{proxy.url}/v1/models')"
        cell = f"""
with connected(in_loop={in_loop}) as proxy:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await {ask}
print(answer.status_code)
"""
        assert notebook.run(cell).text == "200\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no uvloop")
def test_in_a_loop_that_cannot_be_patched_in_loop_says_what_else_there_is(tmp_path: Path, setup: str) -> None:
    on_uvloop = (
        "import asyncio, uvloop; asyncio.set_event_loop_policy(uvloop.EventLoopPolicy());"
        " from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
    )
    with kernel(tmp_path, code=setup, launcher=on_uvloop) as notebook:
        cell = notebook.fail("connected(in_loop=True)")
        assert "SettingError" in cell.failure
        assert "uvloop's" in cell.failure
        assert notebook.run(
            "try: connected(in_loop=True)\nexcept llmtunnel.SettingError as exc: print(exc.hint)"
        ).text == (
            "Remove in_loop: the tunnel then has a thread of its own."
            " Or use llmtunnel.aio: `await llmtunnel.aio.proxy(…)`.\n"
        )
        assert notebook.run("with connected() as proxy: print(proxy.status.phase)").text == "ready\n"


@pytest.mark.parametrize(
    "opened", ["proxy = connected({more})", "proxy = connected(in_loop=True, {more})", "%tunnel proxy {line}"]
)
def test_a_kernel_that_restarts_leaves_its_room_in_order_and_its_port_free(
    tmp_path: Path, other: Background, setup: str, opened: str
) -> None:
    lost: list[Notice] = []
    port = ports.free_port()
    with (
        llmtunnel.serve(other.upstream, signal=other.signal, stun=()) as server,
        kernel(tmp_path, code=setup) as notebook,
    ):
        assert server.invite is not None
        code, listen = server.invite.code, f"127.0.0.1:{port}"
        notebook.run("%load_ext llmtunnel\ndef connected(**more): return llmtunnel.proxy(stun=(), **more)")
        notebook.run(
            opened.format(more=f"invite={code!r}, listen={listen!r}", line=f"{code} --listen {listen} --stun none")
        )
        server.wait(timeout=PATIENCE)
        server.subscribe(lambda notice: lost.append(notice) if isinstance(notice, PeerLostNotice) else None)
        notebook.restart()
        with socket.create_server(("127.0.0.1", port)):
            pass
        server.wait(Phase.WAITING, timeout=PATIENCE)
        assert not server.status.peers
        [gone] = lost
        assert isinstance(gone, PeerLostNotice)
        assert "The other side has stopped." in gone.reason, "in order, not by silence"


def test_without_ipywidgets_text_and_a_picture_do(tmp_path: Path, other: Background, setup: str) -> None:
    absent = f"import sys; sys.modules['ipywidgets'] = None\n{setup}\n%load_ext llmtunnel"
    with kernel(tmp_path, code=absent) as notebook:
        cell = notebook.run(f"%tunnel serve {other.upstream} --signal {other.signal} --stun none")
        assert not cell.text
        assert "text/html" in cell.displayed[0]
        asked: list[str] = []

        def answer(message: dict[str, Any]) -> str:
            asked.append(message["content"]["prompt"])
            return ""

        notebook.finish(notebook.begin("%tunnel invite", allow_stdin=True), answer=answer)
        assert "llmtunnel proxy " in asked[0]
        assert notebook.comms == []
        notebook.run("%tunnel stop")


@pytest.mark.parametrize("inline", [False, True], ids=["without pyplot", "with pyplot's figures inline"])
def test_a_plot_is_shown_once_while_the_tunnel_runs(notebook: Kernel, inline: bool) -> None:
    notebook.run("proxy = connected()")
    try:
        notebook.run("chat = openai.OpenAI(base_url=proxy.openai_base_url, api_key='none').chat.completions")
        said = "[{'role': 'user', 'content': 'hi'}]"
        notebook.run(f"stream = chat.create(model='toy', stream=True, messages={said})\nnext(stream)")
        if inline:
            notebook.run("%matplotlib inline\nimport matplotlib.pyplot")
        shown = notebook.run("proxy.plot()").displayed
        assert [data["image/png"][:8] for data in shown] == ["iVBORw0K"]
        assert notebook.value("len([each for each in stream])") > 0, "the answer went on"
        assert inline or notebook.value("'matplotlib.pyplot' not in sys.modules")
    finally:
        notebook.run("proxy.close()")
