"""The commands as processes: what they say, and with which status they end."""

from __future__ import annotations

import asyncio
import io
import os
import re
import socket
import subprocess
import sys
import textwrap

import pytest

from llmtunnel.cli import commands, main
from llmtunnel.cli.commands import NAMES_SIGNAL
from llmtunnel.cli.console import Console
from llmtunnel.cli.options import ProxyCommand, ServeCommand, parse
from llmtunnel.endpoints import discovery
from llmtunnel.endpoints.discovery import Found
from llmtunnel.invite import EXAMPLE, MAYBE_CUT
from llmtunnel.paths import Path
from llmtunnel.status import Notice, PeerConnected, Reconnecting, Role, SignalConnected, Waiting
from llmtunnel.upstream import NAMED

from ..support.ports import free_port
from ..support.processes import Process, Processes

ROOM = ("--room", "r", "--stun", "none")
KEPT = ("--secret", "of-the-test")


def refused_signal() -> tuple[str, str]:
    """Where no signal server is."""
    return "--signal", f"ws://127.0.0.1:{free_port()}"


def launch(started: Processes, *arguments: str, **environ: str) -> Process:
    return started.start("-m", "llmtunnel", *arguments, name="llmtunnel", environ=environ)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--version"], 0, r"^llmtunnel \d+\.\d+\.\d+"),
        (["--help"], 0, "usage: llmtunnel"),
        (["signal", "--help"], 0, "usage: llmtunnel signal"),
        ([], 2, "No command"),
        (["prxy"], 2, "Did you mean 'proxy'"),
        (["serve", "--room", "r", "--bogus"], 2, "llmtunnel serve --help"),
        (["proxy"], 2, "llmtunnel proxy CODE"),
        (["serve", "--room", "r", "--policy", "openia"], 2, "--policy: unknown value 'openia'"),
        (["serve", "--room", "r", "--allow", "/v1//x"], 2, "never matches: it contains an empty segment"),
        (["serve", "--room", "r", "--max-body", "much"], 2, "--max-body: not a size: 'much'"),
        (["proxy", "--room", "r", "--listen", "nowhere:x"], 2, "error: "),
    ],
)
def test_a_command_that_runs_nothing_says_so_and_ends(
    started: Processes, arguments: list[str], status: int, said: str
) -> None:
    process = launch(started, *arguments)
    process.wait_line(said)
    assert process.wait_exit() == status


@pytest.mark.parametrize(
    "line",
    [
        "serv",
        "--verison",
        "serve ollama --polcy openai",
        "serve ollama --policy opnai",
        "serve ollama --policy",
        "serve ollama vllm",
        "serve olama",
        "serve http://",
        "serve --expires tomorrow",
        "serve --max-requests none",
        "serve --allow v1",
        "serve --upstream-header @/nonexistent",
        "proxy hello",
        "proxy 4821309-tulip-mango-onion-ced",
        "proxy --invite-file /nonexistent",
        "proxy --invite-file /",
        f"proxy {EXAMPLE} --secret x",
        f"proxy {EXAMPLE} --signal http://x",
        f"proxy {EXAMPLE} --listen 127.0.0.1:99999",
        f"proxy {EXAMPLE} --listen 0.0.0.0:0",
        "doctor --turn x",
        "demo now",
        "toy --listen x:y",
    ],
)
def test_a_mistake_is_an_error_and_what_to_do_in_few_lines(line: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    told = capfd.readouterr()
    message, *hint = told.err.splitlines()
    assert message.startswith("error: ") and message.endswith(".")
    assert 1 <= len(hint) <= 2
    assert not told.out


WAITING = Waiting(room="r", role=Role.PROXY)
UNREACHED = Reconnecting(what="signal server", reason="r", delay=1)
JOINED = SignalConnected(signal="ws://s", room="r")
CONNECTED = PeerConnected(peer="p", path=Path.DIRECT, version="v2")


@pytest.mark.parametrize(
    ("arguments", "notices", "hint"),
    [
        ([EXAMPLE], [UNREACHED, JOINED, WAITING, WAITING], MAYBE_CUT),
        ([EXAMPLE], [JOINED, CONNECTED, WAITING], ""),
        ([f"{EXAMPLE}@signal.example"], [UNREACHED, UNREACHED, JOINED, WAITING], NAMES_SIGNAL),
        ([f"{EXAMPLE}@signal.example"], [JOINED, UNREACHED], ""),
        (["--room", "r", "--secret", "long enough"], [UNREACHED, JOINED, WAITING], ""),
    ],
)
def test_where_the_end_of_a_code_may_be_missing_proxy_says_so_once(
    arguments: list[str], notices: list[Notice], hint: str
) -> None:
    people, command = io.StringIO(), parse(["proxy", *arguments], {})
    assert isinstance(command, ProxyCommand)
    hear = commands._doubting(command.settings, Console(stream=people))
    for notice in notices:
        hear(notice)
    assert people.getvalue() == (f"{hint}\n" if hint else "")


def test_a_proxy_that_does_not_reach_the_codes_signal_server_names_the_codes_end(started: Processes) -> None:
    proxy = launch(started, "proxy", f"{EXAMPLE}@ws://127.0.0.1:{free_port()}", "--listen", "127.0.0.1:0")
    proxy.wait_line(NAMES_SIGNAL)
    proxy.interrupt()
    assert proxy.wait_exit() == 130


def test_the_installed_names_are_this_command_line() -> None:
    from importlib.metadata import entry_points

    ours = {point.name for point in entry_points(group="console_scripts") if point.value == "llmtunnel.cli:main"}
    if ours:  # installed, and not just on the path
        assert ours == {"llmtunnel", "tunnel"}


def test_a_port_in_use_is_an_error_that_names_a_free_one(started: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        arguments = ("proxy", *ROOM, *refused_signal(), "--listen", f"127.0.0.1:{port}")
        for_people, for_programs = launch(started, *arguments), launch(started, *arguments, "--json")
        assert (for_people.wait_exit(), for_programs.wait_exit()) == (2, 2)
        assert str(port) in for_people.wait_line("in use").string
        free = int(for_people.wait_line(r"Use --listen (\d+)")[1])
        assert free != port
        assert "in use" in for_programs.wait_event("error")["message"]
        assert len(for_programs.lines) == len(for_programs.events)


@pytest.mark.skipif(os.name != "posix", reason="no signals are sent from outside elsewhere")
@pytest.mark.parametrize("role", ["serve", "proxy"])
@pytest.mark.parametrize("how", ["interrupt", "terminate"])
def test_an_orderly_end_has_the_status_of_its_signal(started: Processes, role: str, how: str) -> None:
    where = ("--listen", "127.0.0.1:0") if role == "proxy" else ("--upstream", str(free_port()))
    process = launch(started, role, *ROOM, *where, *refused_signal(), "--json")
    process.wait_event("reconnecting")
    if how == "interrupt":
        process.interrupt()
        assert process.wait_exit() == 130
    else:
        assert process.stop() == 143
    assert process.events[-1]["event"] == "stopped"
    assert process.count("stopped") == 1


@pytest.mark.skipif(os.name != "posix", reason="no signals are sent from outside elsewhere")
def test_an_interrupt_closes_in_order_where_loops_take_no_signal_handlers_and_uvloop_is_absent(
    started: Processes,
) -> None:
    elsewhere = (
        "import asyncio, sys; sys.modules['uvloop'] = None;"
        "base = asyncio.AbstractEventLoop; loop = asyncio.SelectorEventLoop;"
        "loop.add_signal_handler = base.add_signal_handler;"
        "loop.remove_signal_handler = base.remove_signal_handler;"
        "from llmtunnel.cli import main; sys.exit(main())"
    )
    flags = ("proxy", *ROOM, *refused_signal(), "--listen", "127.0.0.1:0", "--json")
    process = started.start("-c", elsewhere, *flags, name="proxy")
    process.wait_event("reconnecting")
    process.interrupt()
    assert process.wait_exit() == 130
    assert process.events[-1]["event"] == "stopped"


def test_what_is_down_is_said_in_a_line_each_and_not_again(started: Processes) -> None:
    process = launch(started, "serve", *ROOM, *KEPT, "--upstream", str(free_port()), *refused_signal())
    process.wait_line(
        r"^error: The model server at http://localhost:\d+ does not answer yet\."
        r" Checking every 3 s\. .*Until it answers"
    )
    process.wait_line(r"Retrying\.$")
    with pytest.raises(AssertionError):
        process.wait_line("nothing says this", timeout=1.5)
    assert len(process.lines) == 2
    assert process.errors == []


def test_standard_output_of_a_program_has_objects_alone_also_where_much_is_logged(started: Processes) -> None:
    process = launch(started, "proxy", *ROOM, "--listen", "127.0.0.1:0", *refused_signal(), "--json", "-vv")
    process.wait_event("listening")
    process.wait_event("reconnecting")
    assert len(process.events) == len(process.lines)


def test_a_proxy_whose_serve_speaks_another_version_says_why_and_ends_with_status_4(started: Processes) -> None:
    of_the_future = textwrap.dedent("""
        import runpy
        from tests.reference import roles, wire

        async def shake_hands(self, send, frames):
            await roles.first(frames, wire.HELLO)
            self._send = send
            self.send_json(wire.AGREE, 0, {"version": 9, "features": []})

        roles.Serve.shake_hands = shake_hands
        runpy.run_module("tests.reference.original", run_name="__main__")
    """)
    signal = started.signal()
    room = ("--room", "r", "--signal", signal.url)
    started.start("-c", of_the_future, "serve", *room, "--upstream", "http://127.0.0.1:1", name="serve")
    flags = (*ROOM, *room, "--listen", "127.0.0.1:0")
    proxy = launch(started, "proxy", *flags, "--json")
    assert proxy.wait_exit() == 4
    assert any("version" in event["message"] for event in proxy.events if event["event"] == "error")
    assert proxy.events[-1]["event"] == "stopped"


@pytest.mark.skipif(os.name != "posix", reason="needs a pipe that breaks")
def test_a_reader_that_goes_away_ends_the_command_without_a_traceback() -> None:
    command = [sys.executable, "-m", "llmtunnel"]
    for arguments, status in (
        (["--help"], 0),
        (["proxy", *ROOM, *KEPT, *refused_signal(), "--listen", "127.0.0.1:0"], 141),
    ):
        reader, writer = os.pipe()
        os.close(reader)
        result = subprocess.run([*command, *arguments], stdout=writer, stderr=subprocess.PIPE, timeout=30, check=False)
        os.close(writer)
        assert (result.returncode, result.stderr) == (status, b"")


def test_serve_without_an_upstream_takes_the_model_server_that_answers_or_says_what_it_tried(
    started: Processes,
) -> None:
    process = launch(started, "serve", *ROOM, *refused_signal())
    match = process.wait_line(r"^(upstream: |error: (No|Several) model server)")
    if match[1].startswith("error"):  # as anywhere but on a developer's own machine
        assert process.wait_exit() == 2
        assert all(str(port) in match.string for port in NAMED.values()) or "Several" in match.string
        process.wait_line("--upstream")


@pytest.mark.parametrize(
    ("flags", "hinted"),
    [
        (["ollama"], True),
        (["http://127.0.0.1:11434"], True),
        (["ollama", "--max-requests", "4"], True),
        (["ollama", "--policy", "ollama"], False),
        (["ollama", "--policy", "all"], False),
        (["ollama", "--deny", "/api/pull"], False),
        (["1234"], False),
        (["ollama", "--json"], False),
    ],
)
def test_serve_hints_in_one_line_that_ollama_lets_more_than_inference_through(
    started: Processes, flags: list[str], hinted: bool
) -> None:
    process = launch(started, "serve", *ROOM, *refused_signal(), "--upstream", *flags)
    if "--json" in flags:
        process.wait_event("reconnecting")
    else:
        process.wait_line(r"Retrying\.$")
    hints = [line for line in process.lines if line.startswith("hint:")]
    assert len(hints) == hinted
    assert all("--policy ollama" in hint for hint in hints)


@pytest.mark.parametrize(("name", "hinted"), [("Ollama", True), ("vLLM", False)])
async def test_the_hint_is_given_too_where_discovery_finds_ollama_at_another_port(
    monkeypatch: pytest.MonkeyPatch, name: str, hinted: bool
) -> None:
    async def discover() -> list[Found]:
        return [Found(name=name, port=free_port())]

    monkeypatch.setattr(discovery, "discover", discover)
    output = io.StringIO()
    command = parse(["serve", *ROOM, *refused_signal()], {})
    assert isinstance(command, ServeCommand)
    serving = asyncio.create_task(commands._serve(command, Console(stream=output)))
    while "Retrying" not in output.getvalue():  # noqa: ASYNC110 (what is waited for has no event)
        await asyncio.sleep(0.01)
    serving.cancel()
    await asyncio.wait((serving,))
    said = output.getvalue()
    assert said.startswith(f"upstream: {name} on port ")
    assert ("\nhint: " in said) is hinted


@pytest.mark.skipif(os.name != "posix", reason="no signals are sent from outside elsewhere")
def test_the_signal_server_is_a_command_too(started: Processes) -> None:
    signal = started.signal()
    assert re.fullmatch(r"ws://127\.0\.0\.1:\d+", signal.url)
    assert signal.process.stop() == 143
