"""`llmtunnel.serve` and `llmtunnel.proxy` in cells: the panel at once, and whose place a call takes that runs again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmtunnel

from ..support.background import SERVED, Background
from ..support.kernel import PATIENCE, Kernel, kernel
from ..support.ports import fetch, free_port, is_free
from ..support.processes import environment

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def setup(other: Background) -> str:
    common = {"signal": other.signal, "stun": ()}
    return f"%load_ext llmtunnel\nimport llmtunnel\ncommon = {common!r}\nupstream = {other.upstream!r}"


@pytest.fixture
def notebook(started: Kernel) -> Iterator[Kernel]:
    """The kernel; each test leaves it without a tunnel."""
    yield started
    started.run("%tunnel stop all\nif 'proxy' in globals(): del proxy\nif 'server' in globals(): del server")
    assert started.value("[t.name for t in __import__('threading').enumerate() if 'llmtunnel' in t.name]") == []


def until_shown(notebook: Kernel, sent: str, words: str) -> None:
    """Return when the page was told these words by a panel that the cell displays, while the cell runs."""
    deadline, shown, told = time.monotonic() + PATIENCE, False, False
    while not (shown and told):
        assert time.monotonic() < deadline, (shown, told)
        for message in notebook.received(None):
            assert message["msg_type"] != "execute_reply", "the cell has ended"
            if message["parent_header"].get("msg_id") == sent and message["msg_type"] == "display_data":
                shown = shown or VIEW in message["content"]["data"]
            told = told or (message["msg_type"].startswith("comm_") and words in json.dumps(message["content"]))


def test_the_panel_is_there_at_once_and_shows_what_is_waited_for(notebook: Kernel, other: Background) -> None:
    sent = notebook.begin("proxy = llmtunnel.proxy(room='later', listen=0, **common)")
    until_shown(notebook, sent, "waiting for serve")
    time.sleep(3.5)  # past the time at which a wait without a panel says something
    with llmtunnel.serve(other.upstream, room="later", signal=other.signal, stun=(), quiet=True):
        cell = notebook.finish(sent)
        assert cell.status == "ok"
        assert cell.text == "", "the panel says it"
        assert notebook.value("str(proxy.status.phase)") == "ready"
        notebook.run("proxy.close()")


def test_a_serve_shows_its_panel_while_it_reaches_the_signal_server(notebook: Kernel) -> None:
    nowhere = f"ws://127.0.0.1:{free_port()}"
    sent = notebook.begin(f"llmtunnel.serve(upstream, signal={nowhere!r}, stun=(), timeout=6)")
    until_shown(notebook, sent, "reaching the signal server")
    cell = notebook.finish(sent)
    assert "WaitTimeout: The signal server was not reached within 6 s." in cell.failure


def test_in_the_cell_that_opened_it_a_handle_in_the_last_line_is_text_and_elsewhere_its_panel(
    notebook: Kernel,
) -> None:
    cell = notebook.run("server = llmtunnel.serve(upstream, **common); server")
    assert cell.result.startswith("<llmtunnel serve: ")
    assert cell.displayed[-1].keys() == {"text/plain"}
    [panel] = cell.panels
    assert notebook.run("server").panels == [panel]


def test_quiet_shows_no_panel(notebook: Kernel) -> None:
    cell = notebook.run("server = llmtunnel.serve(upstream, quiet=True, **common)")
    assert cell.outputs == []
    assert len(notebook.run("server").panels) == 1


@pytest.mark.parametrize("in_loop", [False, True])
def test_a_proxy_that_runs_again_takes_the_place_of_the_one_before(notebook: Kernel, in_loop: bool) -> None:
    port = free_port()
    again = f"proxy = llmtunnel.proxy(room={SERVED!r}, listen={port}, in_loop={in_loop}, **common)"
    assert notebook.run(again).text == ""
    notebook.run("before = proxy")
    said = notebook.run(again).text
    url = f"http://127.0.0.1:{port}"
    assert said == f"llmtunnel: this proxy replaces the one of an earlier cell ({url}), which was stopped\n"
    assert notebook.value("[str(before.status.phase), str(proxy.status.phase), proxy.url]") == ["stopped", "ready", url]
    notebook.run("proxy.close(); del before")
    assert is_free(port)


def test_a_proxy_of_another_room_or_port_stands_beside_it(notebook: Kernel, other: Background) -> None:
    one, two = free_port(), free_port()
    notebook.run(f"proxy = llmtunnel.proxy(room={SERVED!r}, listen={one}, **common)")
    beside = notebook.run(f"more = llmtunnel.proxy(room={SERVED!r}, listen={two}, **common)")
    assert beside.text == ""
    assert fetch(f"http://127.0.0.1:{one}/a") == fetch(f"http://127.0.0.1:{two}/a") == b"/a"
    failed = notebook.fail(f"llmtunnel.proxy(room='another', listen={one}, **common)").failure
    assert f"AddressInUse: 127.0.0.1:{one} is in use by another proxy of this process." in failed
    assert "%tunnel stop all" in failed
    notebook.run("more.close(); del more")


def test_a_serve_that_runs_again_takes_the_place_of_the_one_before_and_keeps_its_invite(notebook: Kernel) -> None:
    again = "server = llmtunnel.serve(upstream, **common); code = server.invite.code"
    assert notebook.run(again).text == ""
    code = notebook.value("code")
    said = notebook.run("before = server\n" + again).text
    assert said.startswith("llmtunnel: this serve replaces the one of an earlier cell (http://127.0.0.1:")
    assert notebook.value("[code, str(before.status.phase)]") == [code, "stopped"]
    with llmtunnel.proxy(code, stun=(), listen=0, quiet=True) as proxy:
        assert fetch(f"{proxy.url}/a") == b"/a"
    notebook.run("server.close()")
    notebook.run(again + "; del before")
    assert notebook.value("code") != code, "one that was closed is over, and so is its invite"


def test_two_serves_of_one_upstream_stand_beside_each_other_in_one_cell_or_in_rooms_of_their_own(
    notebook: Kernel,
) -> None:
    two = "server, more = (llmtunnel.serve(upstream, **common) for _ in range(2))"
    assert notebook.run(two).text == ""
    assert notebook.value("[each.status.phase != 'stopped' for each in (server, more)]") == [True, True]
    notebook.run("server.close(); more.close()")
    for room in ("a", "b"):
        assert notebook.run(f"{room} = llmtunnel.serve(upstream, room={room!r}, **common)").text == ""
    assert notebook.value("[each.status.phase != 'stopped' for each in (a, b)]") == [True, True]
    notebook.run("a.close(); b.close(); del a, b, more")


def test_stop_all_stops_what_python_opened_too_and_says_which(notebook: Kernel, other: Background) -> None:
    port = free_port()
    notebook.run(f"%tunnel serve {other.upstream} --signal {other.signal} --stun none")
    notebook.run(f"mine = llmtunnel.proxy(room={SERVED!r}, listen={port}, **common)")
    notebook.run("llmtunnel.serve(upstream, room='dropped', **common) and None")
    notebook.run(f"running = await llmtunnel.aio.proxy(room={SERVED!r}, listen=0, **common)")
    url = notebook.value("running.url")
    assert notebook.run("%tunnel stop all").text.splitlines() == [
        "serve: stopped",
        f"mine (proxy, http://127.0.0.1:{port}): stopped",
        f"a tunnel (serve, {other.upstream}): stopped",
        f"running (proxy, {url}): stopping",
    ]
    notebook.run("await running.aclose()")
    assert notebook.value("[str(each.status.phase) for each in (mine, running)]") == ["stopped", "stopped"]
    assert is_free(port)
    assert notebook.run("%tunnel stop all").text == "no tunnel is running here\n"
    notebook.run("del mine, running")


def test_stop_names_all_where_only_python_opened_something(notebook: Kernel) -> None:
    notebook.run("server = llmtunnel.serve(upstream, **common)")
    assert "%tunnel stop all" in notebook.fail("%tunnel stop").text


FORKED = """
import multiprocessing

def work(queue):
    with llmtunnel.proxy(room={room!r}, listen=0, **common) as proxy:
        queue.put(str(proxy.status.phase))

fork = multiprocessing.get_context("fork")
queue = fork.Queue()
worker = fork.Process(target=work, args=(queue,))
worker.start()
print(queue.get(timeout=30))
worker.join()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_worker_opens_a_tunnel_and_draws_nothing(notebook: Kernel) -> None:
    cell = notebook.run(FORKED.format(room=SERVED))
    assert cell.text == "ready\n"
    assert cell.panels == []


def test_on_colab_whose_page_stands_still_meanwhile_a_line_says_it_too(setup: str, tmp_path: Path) -> None:
    colab = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')\n"
    with kernel(tmp_path, code=colab + setup) as notebook:
        cell = notebook.fail("llmtunnel.proxy(room='nobody', listen=0, timeout=4, **common)")
    assert len(cell.panels) == 1
    assert cell.text.startswith("llmtunnel proxy: No serve is in the room. ")
    assert len(cell.text.splitlines()) == 1


TWICE = """
import llmtunnel
def opened(): return llmtunnel.proxy(room={room!r}, listen={port}, signal={signal!r}, stun=())
proxy = opened()
try:
    proxy = opened()
except llmtunnel.AddressInUse as exc:
    print("refused")
"""


def test_a_program_is_refused_as_ever(other: Background) -> None:
    script = TWICE.format(room=SERVED, port=free_port(), signal=other.signal)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, env=environment({})
    )
    assert (result.stdout, result.stderr) == ("refused\n", "")


def test_in_a_terminal_ipython_replaces_too(other: Background, tmp_path: Path) -> None:
    port = free_port()
    opened = f"proxy = llmtunnel.proxy(room={SERVED!r}, listen={port}, signal={other.signal!r}, stun=())\n"
    result = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "--simple-prompt"],
        input=f"import llmtunnel\n{opened}{opened}print(proxy.status.phase)\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment({"IPYTHONDIR": str(tmp_path)}),
    )
    assert result.stdout.count("replaces the one of an earlier cell") == 1
    assert "ready" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
