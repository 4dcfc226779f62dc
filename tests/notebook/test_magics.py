"""The magics, cell by cell, in a real kernel; the other side of each tunnel is in this process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llmtunnel
from llmtunnel.endpoints.toy import Toy
from llmtunnel.install import on_laptop
from llmtunnel.status import Phase

from ..support.background import SERVED, Background
from ..support.kernel import PATIENCE, Kernel
from ..support.ports import fetch, free_port, is_free
from ..support.processes import ROOT

HANDLES = "__import__('llmtunnel.notebook').notebook.tunnels()"


@pytest.fixture(scope="module")
def other() -> Iterator[Background]:
    with Background(Toy) as background:
        yield background


@pytest.fixture(scope="module")
def flags(other: Background) -> str:
    return f"--signal {other.signal} --stun none"


@pytest.fixture(scope="module")
def setup() -> str:
    return "%load_ext llmtunnel"


@pytest.fixture
def notebook(started: Kernel) -> Iterator[Kernel]:
    """The kernel; each test leaves it without a tunnel, thread or listener."""
    yield started
    if started.value(f"list({HANDLES})"):
        started.run("%tunnel stop all")
    assert started.value("[t.name for t in __import__('threading').enumerate() if 'llmtunnel' in t.name]") == []


def code_of(notebook: Kernel, name: str = "serve") -> str:
    return str(notebook.value(f"{HANDLES}[{name!r}].invite.code"))


def shown_by(notebook: Kernel, line: str) -> str:
    """The text beside the one panel that a line shows."""
    cell = notebook.run(line)
    assert len(cell.panels) == 1
    return str(cell.displayed[0]["text/plain"])


def wait(notebook: Kernel, name: str) -> None:
    notebook.run(f"{HANDLES}[{name!r}].wait()")


def test_serve_shows_how_it_goes_and_answers_whoever_has_the_invite(
    notebook: Kernel, other: Background, flags: str
) -> None:
    cell = notebook.run(f"%tunnel serve {other.upstream} {flags}   # as in a shell")
    assert not cell.text, "the panel says it, and goes on"
    assert len(cell.panels) == 1
    picture, _ = cell.displayed
    assert {"text/plain", "text/html"} <= picture.keys()
    assert other.upstream in picture["text/plain"]
    code = code_of(notebook)
    assert code not in json.dumps(cell.outputs)
    with llmtunnel.proxy(code, stun=(), listen="127.0.0.1:0") as proxy:
        assert b"toy" in fetch(f"{proxy.url}/v1/models")
        [peer] = notebook.value(f"[p.peer for p in {HANDLES}['serve'].status.peers]")
        assert peer in notebook.run("%tunnel peers").text
        assert "serve: ready" in shown_by(notebook, "%tunnel status serve")
        assert notebook.complete("%tunnel kick ") == [peer]
        assert peer in notebook.run(f"%tunnel kick {peer}").text
        proxy.wait(Phase.FAILED, timeout=PATIENCE)
    assert notebook.run("%tunnel peers").text == "no peer is connected\n"


def test_the_doctor_says_what_to_expect_and_its_mistakes_are_one_line(notebook: Kernel, flags: str) -> None:
    found = notebook.run(f"%tunnel doctor {flags} --listen 127.0.0.1:0").text
    assert "✓" in found.splitlines()[0] and "signal server" in found.splitlines()[0]
    assert "expect" in found.splitlines()[-1].lower()
    assert '"signal": true' in notebook.run(f"%tunnel doctor {flags} --json --listen 127.0.0.1:0").text


def test_proxy_brings_the_other_side_into_the_notebook(notebook: Kernel, flags: str) -> None:
    cell = notebook.run(f"%tunnel proxy --room {SERVED} --listen 127.0.0.1:0 {flags}")
    assert "warning: A room without a secret" in cell.text
    wait(notebook, "proxy")
    url = notebook.value(f"{HANDLES}['proxy'].url")
    assert b"toy" in fetch(f"{url}/v1/models")
    notebook.run("%tunnel reconnect")
    wait(notebook, "proxy")
    assert b"toy" in fetch(f"{url}/v1/models")
    assert notebook.run("%tunnel stop").text == "proxy: stopped\n"
    assert is_free(int(url.rpartition(":")[2]))


def test_a_cell_that_runs_again_replaces_its_tunnel_says_so_and_keeps_the_invite(
    notebook: Kernel, other: Background, flags: str
) -> None:
    port = free_port()
    cells = [f"%tunnel serve {other.upstream} {flags}", f"%tunnel proxy --room {SERVED} --listen {port} {flags}"]
    first = [notebook.run(cell).text for cell in cells]
    code = code_of(notebook)
    again = [notebook.run(cell).text for cell in cells]
    assert not any("was stopped and replaced" in text for text in first)
    assert all("was stopped and replaced" in text for text in again)
    assert notebook.value(f"list({HANDLES})") == ["serve", "proxy"]
    assert code_of(notebook) == code
    wait(notebook, "proxy")
    assert b"toy" in fetch(f"http://127.0.0.1:{port}/v1/models")
    notebook.run("%tunnel stop serve")
    notebook.run(cells[0])
    assert code_of(notebook) != code, "one that was stopped is over, and so is its invite"


def test_tunnels_of_other_names_stand_beside_each_other(notebook: Kernel, other: Background, flags: str) -> None:
    for name in ("a", "b"):
        notebook.run(f"%tunnel serve {other.upstream} --name {name} {flags}")
    assert code_of(notebook, "a") != code_of(notebook, "b")
    for verb in ("stop", "peers"):
        assert "Name one of them: a, b, or all." in notebook.fail(f"%tunnel {verb}").text
    assert "Name one of them: a, b." in notebook.fail("%tunnel reconnect").text
    both = notebook.run("%tunnel status")
    assert both.text == "a:\nb:\n", "which panel is whose"
    assert len(both.panels) == 2
    assert notebook.run("%tunnel peers all").text == "a:\nno peer is connected\nb:\nno peer is connected\n"
    assert notebook.run("%tunnel stop all").text == "a: stopped\nb: stopped\n"
    assert notebook.run("%tunnel stop all").text == "no tunnel is running here\n"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("%tunnel srve", "Unknown command: %tunnel srve. Did you mean 'serve'?"),
        ("%tunnel 4821309-tulip-mango", "Unknown %tunnel command. Use one of serve, proxy"),
        ("%tunnel serve --romm r", "llmtunnel serve: unknown option '--romm'. Did you mean '--room'?"),
        ("%tunnel serve ftp://x", "The upstream's address must start with http:// or https://, got 'ftp'."),
        ("%tunnel serve 80 --upstream 80", "UPSTREAM and --upstream are the same. Use only one of them."),
        ("%tunnel serve --json 80", "--json does not work in a notebook."),
        ("%tunnel serve 80 --name 'a b'", "Not a valid name for a tunnel: 'a b'."),
        ("%tunnel serve 80 --name", "Not a valid name for a tunnel: ''."),
        ("%tunnel serve 'http://a", "A quote on this line is not closed."),
        ("%tunnel proxy", "No invite was given"),
        ("%tunnel proxy -", "'-' prompts for the code, but this notebook cannot prompt."),
        ("%tunnel stop", "No tunnel is running."),
        ("%tunnel status a b", "Too many names: this command takes one."),
        ("%tunnel kick", "kick needs the name of one peer."),
        ("%tunnel kick nobody", "No peer named 'nobody' is connected."),
        ("%tunnel invite", "No tunnel is running."),
        ("%%tunnel stop\n1", "%%tunnel must be the cell's first line, as %%tunnel serve or %%tunnel proxy"),
        ("%%tunnel serve 80 --nonsense\nraise KeyError", "unknown option '--nonsense'"),
    ],
)
def test_a_mistake_is_one_line_with_no_traceback_and_the_cell_has_failed(
    notebook: Kernel, line: str, told: str
) -> None:
    cell = notebook.fail(line)
    [text] = cell.text.splitlines()
    assert text.startswith("UsageError: ")
    assert told in text
    assert "tulip" not in text


def test_what_cannot_be_opened_is_told_the_same_way_and_leaves_nothing(notebook: Kernel, flags: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cell = notebook.fail(f"%tunnel proxy --room {SERVED} --listen 127.0.0.1:{port} {flags}")
    assert f"127.0.0.1:{port} is in use" in cell.text
    assert notebook.value(f"list({HANDLES})") == []


@pytest.mark.parametrize("jedi", [True, False])
def test_words_flags_names_and_upstreams_are_completed(
    notebook: Kernel, other: Background, flags: str, jedi: bool
) -> None:
    notebook.run(f"get_ipython().Completer.use_jedi = {jedi}")
    notebook.run(f"%tunnel serve {other.upstream} --name gpu {flags}")
    assert notebook.complete("%tunnel st") == ["status", "stop"]
    assert notebook.complete("tunnel pro") == ["proxy"]
    assert notebook.complete("%%tunnel se") == ["serve"]
    assert notebook.complete("%tunnel serve ol") == ["ollama"]
    assert notebook.complete("%tunnel serve --na") == ["--name"]
    assert notebook.complete("%tunnel serve vllm --policy op") == ["openai"]
    assert notebook.complete("%tunnel proxy --allow-h") == ["--allow-host"]
    assert notebook.complete("1\n%tunnel stop g") == ["gpu"]
    assert notebook.complete("%tunnel serve --name g") == ["gpu"]


def test_help_is_there_in_the_usual_ways(notebook: Kernel) -> None:
    for line in ("%tunnel", "%tunnel help", "%tunnel -h"):
        assert "%tunnel invite [NAME]" in notebook.run(line).text
    text = notebook.run("%tunnel serve --help").text
    assert "--max-body SIZE" in text and "--name NAME" in text
    sent = notebook.begin("%tunnel?")
    reply = notebook.client.get_shell_msg(timeout=PATIENCE)
    assert reply["parent_header"]["msg_id"] == sent
    assert "%tunnel invite [NAME]" in reply["content"]["payload"][0]["data"]["text/plain"]


RELOAD = """
import importlib, sys
for name in ("", ".runtime", ".nested", ".sync", ".notebook.registry", ".notebook.opening", ".notebook.magics"):
    importlib.reload(sys.modules["llmtunnel" + name])
"""


@pytest.mark.parametrize(
    "again", ["%load_ext llmtunnel", "%reload_ext llmtunnel", RELOAD, RELOAD + "%reload_ext llmtunnel"]
)
def test_loading_it_again_loses_no_tunnel_and_doubles_nothing(
    notebook: Kernel, other: Background, flags: str, again: str
) -> None:
    port = free_port()
    cell = f"%tunnel proxy --room {SERVED} --listen {port} {flags}"
    notebook.run(cell)
    transformers = notebook.value("len(get_ipython().input_transformers_cleanup)")
    notebook.run(again)
    assert notebook.value("len(get_ipython().input_transformers_cleanup)") == transformers
    assert notebook.complete("%tunnel stat") == ["status"]
    assert "llmtunnel proxy: " in shown_by(notebook, "%tunnel status")
    assert "was stopped and replaced" in notebook.run(cell).text
    wait(notebook, "proxy")
    assert b"toy" in fetch(f"http://127.0.0.1:{port}/v1/models")
    notebook.run("%tunnel stop all")
    assert is_free(port)


def test_unloading_takes_the_magics_away_and_leaves_the_tunnels(
    notebook: Kernel, other: Background, flags: str
) -> None:
    notebook.run(f"%tunnel serve {other.upstream} {flags}")
    before = notebook.value("len(get_ipython().input_transformers_cleanup)")
    notebook.run("%unload_ext llmtunnel")
    assert "not found" in notebook.fail("%tunnel status").text
    assert notebook.value("len(get_ipython().input_transformers_cleanup)") == before - 1
    assert "status" not in notebook.complete("%tunnel stat")
    notebook.run("%load_ext llmtunnel")
    assert "llmtunnel serve: " in shown_by(notebook, "%tunnel status")


MODEL_SERVER = """
import http.server, json, threading
await __import__('asyncio').sleep(0)

class Models(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"data": [{"id": "late", "owned_by": "vllm"}]}).encode()
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

models = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Models)
threading.Thread(target=models.serve_forever, name="models").start()
"the cell's value"
"""
LOOK_THERE_ALONE = """
import functools
from llmtunnel.endpoints import discovery
from llmtunnel.notebook import opening
before = discovery.discover
discovery.discover = opening.discover = functools.partial(before, ports=(PORT,))
discovery.SEEK_EVERY = 0.1
"""


def test_over_a_cell_the_tunnel_is_up_first_and_finds_the_model_server_that_the_cell_starts(
    notebook: Kernel, flags: str
) -> None:
    port = free_port()
    notebook.run(LOOK_THERE_ALONE.replace("PORT", str(port)))
    cell = notebook.run(f"%%tunnel serve {flags}\n" + MODEL_SERVER.replace("PORT", str(port)))
    try:
        assert "No model server answers on this machine yet." in cell.text
        assert cell.result == '"the cell\'s value"'
        with llmtunnel.proxy(code_of(notebook), stun=(), listen="127.0.0.1:0") as proxy:
            notebook.run(f"while {HANDLES}['serve'].url != 'http://localhost:{port}': __import__('time').sleep(0.05)")
            assert b"late" in fetch(f"{proxy.url}/v1/models")
        again = notebook.run(f"%tunnel serve {flags}")
        assert f"upstream: vLLM on port {port} (late)" in again.text
    finally:
        notebook.run("models.shutdown(); models.server_close(); discovery.discover = opening.discover = before")


def test_a_cell_that_fails_under_it_fails_as_ever(notebook: Kernel, other: Background, flags: str) -> None:
    cell = notebook.fail(f"%%tunnel serve {other.upstream} {flags}\n\n{{}}['missing']")
    assert "KeyError" in cell.failure
    assert "line 3" in cell.failure
    assert notebook.value(f"list({HANDLES})") == ["serve"]


# -- the invite


def test_where_nobody_watches_the_code_is_not_shown(notebook: Kernel, other: Background, flags: str) -> None:
    notebook.run(f"%tunnel serve {other.upstream} {flags}")
    cell = notebook.run("%tunnel invite")
    assert "The code is not shown: no page displays this run" in cell.text
    assert code_of(notebook).split("-")[1] not in json.dumps(cell.outputs)


def test_the_code_is_asked_for_as_a_question_which_pages_do_not_save(
    notebook: Kernel, other: Background, flags: str
) -> None:
    notebook.run(f"%tunnel serve {other.upstream} {flags}")
    asked: list[str] = []

    def answer(message: dict[str, Any]) -> str:
        asked.append(message["content"]["prompt"])
        return ""

    cell = notebook.finish(notebook.begin("%tunnel invite --plain", allow_stdin=True), answer=answer)
    code = code_of(notebook)
    assert f"llmtunnel proxy {code}" in asked[0]
    assert [each["msg_type"] for each in cell.outputs] == ["clear_output"]
    assert code not in json.dumps(cell.outputs)


def test_with_a_panel_the_panel_shows_the_code_in_nothing_that_is_saved(
    notebook: Kernel, other: Background, flags: str
) -> None:
    notebook.run(f"%tunnel serve {other.upstream} {flags}")
    notebook.comms.clear()
    cell = notebook.finish(notebook.begin("%tunnel invite", allow_stdin=True))
    assert cell.status == "ok"
    notebook.change(cell.panels[0], _view_count=1)
    code = code_of(notebook).encode()
    assert any(code in bytes(buffer) for each in notebook.comms for buffer in each["buffers"]), "as bytes, to the page"
    saved = [cell.outputs, [each["content"] for each in notebook.comms]]
    assert code.decode() not in json.dumps(saved)


def test_a_code_can_be_typed_where_it_is_not_saved(notebook: Kernel, other: Background, flags: str) -> None:
    with llmtunnel.serve(other.upstream, signal=other.signal, stun=()) as server:
        assert server.invite is not None
        code, asked = server.invite.code, []

        def answer(message: dict[str, Any]) -> str:
            asked.append(message["content"])
            return code

        sent = notebook.begin("%tunnel proxy - --listen 127.0.0.1:0 --stun none", allow_stdin=True)
        cell = notebook.finish(sent, answer=answer)
        assert cell.status == "ok"
        assert asked[0]["password"]
        wait(notebook, "proxy")
        assert server.status.peers[0].authenticated
        assert code not in json.dumps(cell.outputs)


def test_a_terminal_is_told_in_text(tmp_path: Path, other: Background, flags: str) -> None:
    lines = ["%load_ext llmtunnel", f"%tunnel serve {other.upstream} {flags}", "%tunnel invite"]
    lines += ["import time", f"while {HANDLES}['serve'].status.upstream.health == 'unknown': time.sleep(0.05)"]
    lines += ["%tunnel status"]
    result = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    [code] = re.findall(r"on the other machine: llmtunnel proxy (\S+)", result.stdout)
    assert on_laptop(code).uvx in result.stdout
    assert f"serve: ◌ reaching the signal server, {other.upstream}\n" in result.stdout
    assert "  the model server answers: toy\n" in result.stdout
    assert "object at 0x" not in result.stdout
    assert not result.stderr


def test_no_thread_of_this_process_is_left() -> None:
    assert not [each for each in threading.enumerate() if each.name == "llmtunnel loop"]
