"""What IPython shows of an error of ours: in a real kernel and in IPython's own terminal; and what a script shows."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.background import SERVED, Background
from ..support.kernel import PATIENCE, Kernel
from ..support.processes import environment

WRONG = "4821309-tulip-mango-onion-cedar-fruit"


@pytest.fixture(scope="module")
def setup(other: Background) -> str:
    common = {"signal": other.signal, "stun": ()}
    return f"import llmtunnel\ncommon = {common!r}\nupstream = {other.upstream!r}"


def shown(started: Kernel, code: str) -> list[str]:
    """The lines of a cell's error."""
    return re.sub(r"\x1b\[[0-9;]*m", "", started.fail(code).failure).splitlines()


MISTAKES = {
    "a-wrong-word": ("llmtunnel.proxy('4821309-tulip-mango-onion-cedar-xyzzy')", "SettingError: "),
    "a-wrong-room": (
        "llmtunnel.proxy(room='nobody', listen=0, timeout=1, **common)",
        "WaitTimeout: Serve did not appear within 1 s.",
    ),
    "no-signal-server": (
        "llmtunnel.proxy(room='r', listen=0, timeout=0.3, signal='ws://127.0.0.1:9', stun=())",
        "WaitTimeout: The signal server was not reached within 0.3 s. ",
    ),
    "a-bad-policy": ("llmtunnel.serve(80, policy='opnai')", "SettingError: "),
    "a-bad-pattern": ("llmtunnel.serve(80, allow='FETCH /v1/models')", "SettingError: "),
    "a-bad-upstream": ("llmtunnel.serve('olama')", "SettingError: "),
    "a-bad-port": ("llmtunnel.serve(99999)", "SettingError: "),
    "contradictory": (f"llmtunnel.proxy('{WRONG}', room='r')", "SettingError: invite and room contradict"),
    "no-invite": ("llmtunnel.proxy()", "SettingError: No invite was given"),
    "a-wrong-type": ("llmtunnel.proxy(room=5)", "SettingError: room must be a string, not int."),
    "a-wrong-time": ("llmtunnel.serve(80, expires='soon')", "SettingError: expires: "),
    "in-aio": ("await llmtunnel.aio.proxy(room='r', listen='nonsense')", "SettingError: "),
    "in-loop": ("llmtunnel.serve(80, policy='opnai', in_loop=True)", "SettingError: "),
    "a-bad-phase": (
        f"with llmtunnel.proxy(room={SERVED!r}, listen=0, **common) as p: p.wait('raedy')",
        "SettingError: Unknown phase 'raedy'.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_notebook_is_its_message_and_its_hint(started: Kernel, mistake: str) -> None:
    code, begins = MISTAKES[mistake]
    lines = shown(started, code)
    assert lines[0].startswith(begins)
    assert 2 <= len(lines) <= 4, "message and hint"
    assert not [line for line in lines if "Traceback" in line or ".py" in line]


def test_a_port_in_use_is_told_with_one_that_is_free(started: Kernel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        first, second = shown(started, f"llmtunnel.proxy(room={SERVED!r}, listen={port}, **common)")
    assert first.startswith(f"AddressInUse: 127.0.0.1:{port} is in use")
    assert re.search(r"listen=\d+", second)


def test_a_code_that_serve_does_not_have_is_told_in_two_lines(started: Kernel) -> None:
    made = started.value("[server := llmtunnel.serve(upstream, **common), server.invite.code][1]")
    room = made.partition("-")[0]
    at = made.partition("@")[2]
    wrong = "zebra-yacht-wagon-vogue-usher"
    lines = shown(started, f"llmtunnel.proxy('{room}-{wrong}@{at}', listen=0, stun=())")
    assert lines[0].startswith("AuthenticationFailed: ")
    assert len(lines) <= 3
    assert "zebra" not in "".join(lines)
    started.run("server.close()")


def test_the_whole_traceback_is_one_line_away_and_verbose_shows_it_at_once(started: Kernel) -> None:
    mistake = "llmtunnel.serve(80, policy='opnai')"
    short = shown(started, mistake)
    for call in ("%tb Plain", "%tb Verbose"):
        cell = started.finish(started.begin(call))
        text = re.sub(r"\x1b\[[0-9;]*m", "", cell.failure + cell.text)
        assert "policy.py" in text
        assert text.count(short[-1]) == 1, "the hint, once"
    assert shown(started, mistake) == short, "that was for one call"
    try:
        started.run("%xmode Verbose")
        assert len(shown(started, mistake)) > 20
    finally:
        started.run("%xmode Context")
    assert shown(started, mistake) == short


def test_an_error_of_somebody_else_has_its_traceback(started: Kernel) -> None:
    assert any("Traceback" in line for line in shown(started, "llmtunnel.serve(80, polcy='openai')"))


def test_in_a_terminal_ipython_shows_message_and_hint(tmp_path: Path) -> None:
    lines = "import llmtunnel\nllmtunnel.serve(80, policy='opnai')\nprint('goes on')\n"
    result = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "--simple-prompt"],
        input=lines,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment({"IPYTHONDIR": str(tmp_path)}),
    )
    said = result.stdout.splitlines()
    [at] = [number for number, line in enumerate(said) if "SettingError: " in line]
    assert "policy" in said[at] and "opnai" in said[at]
    assert "openai" in said[at + 1], "the hint"
    assert "goes on" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_a_scripts_traceback_ends_with_message_and_hint(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import llmtunnel\nllmtunnel.serve(80, policy='opnai')\n", "utf-8")
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE, env=environment({})
    )
    assert result.returncode == 1
    *_, message, hint = result.stderr.splitlines()
    assert message.startswith("llmtunnel.errors.SettingError: ")
    assert "openai" in hint
    assert os.sep not in hint
