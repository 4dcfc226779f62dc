"""``!llmtunnel …`` in a cell of a real kernel, and in terminals that are not one."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llmtunnel.platforms import in_cell

from ..support.kernel import PATIENCE, Kernel
from ..support.processes import environment

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a cell has a terminal only there")

WHERE = "--room r --secret 'a long secret' --signal ws://127.0.0.1:9 --stun none"
CODE = re.compile(r"\d{7}(-[a-z]+){5}")


@pytest.fixture(scope="module")
def setup() -> str:
    return "command = f'{sys.executable} -m llmtunnel'"


@contextmanager
def model_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_cell_has_lines_and_no_view(started: Kernel) -> None:
    cell = started.begin(f"!$command proxy {WHERE} --listen 127.0.0.1:0")
    said = started.until_said(cell, "Retrying.")
    started.manager.interrupt_kernel()
    assert "\x1b" not in said + started.finish(cell).text
    assert "proxy listening" in said


def test_a_new_code_is_not_shown_in_a_cell_unless_it_is_asked_for(started: Kernel) -> None:
    with model_server() as url:
        text = started.run(f"!$command serve {url} --signal ws://127.0.0.1:9 --stun none").text
        assert "error: This cell would show a new code, and the notebook would save it." in text
        assert "%tunnel serve" in text
        assert not CODE.search(text)
        assert started.value("_exit_code") == 2


def test_a_cell_does_not_wait_for_keys_that_nobody_can_hit(started: Kernel) -> None:
    text = started.run("!$command proxy -").text
    assert "standard input is not available in a notebook's cell" in text


def test_a_terminal_of_jupyters_is_no_cell() -> None:
    """It is a child of the server's, which a kernel or a hub may have started: with their variables.

    A terminal is a fork of the process that opens it. The server is one without threads, which this process is not.
    """
    server = """
import re, sys
from terminado.management import TermManagerBase

program = "import sys; from llmtunnel.cli.terminal import drawable; print('drawn:', drawable(sys.stdout) is not None)"
terminal = TermManagerBase(shell_command=[sys.executable, "-c", program]).new_terminal()
said = ""
while not re.search(r"drawn: \\w+\\r", said):
    said += terminal.ptyproc.read()
terminal.ptyproc.close(force=True)
print(said)
"""
    environ = environment({"PAGER": "cat", "GIT_PAGER": "cat", "JPY_PARENT_PID": "1"})
    said = subprocess.run([sys.executable, "-c", server], env=environ, capture_output=True, text=True, timeout=PATIENCE)
    assert "drawn: True" in said.stdout, said.stderr


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm-color", "PAGER": "cat", "GIT_PAGER": "cat", "JPY_PARENT_PID": "7"}, True),
        ({"TERM": "xterm-color", "PAGER": "cat", "GIT_PAGER": "cat"}, True),  # Visual Studio Code's kernels
        ({"TERM": "xterm-256color", "PAGER": "cat", "GIT_PAGER": "cat", "JPY_PARENT_PID": "7"}, False),
        ({"TERM": "screen", "PAGER": "cat", "GIT_PAGER": "cat", "TMUX": "/tmp/x"}, False),
        ({"TERM": "xterm-color"}, False),
        ({}, False),
    ],
)
def test_what_tells_a_cell(environ: dict[str, str], expected: bool) -> None:
    assert in_cell(environ) is expected
