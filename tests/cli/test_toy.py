"""The toy model server as a command."""

from __future__ import annotations

import os

import aiohttp

from ..conftest import run
from ..support.processes import Processes


def test_as_a_command_it_says_where_it_is_and_what_to_do_with_it(started: Processes) -> None:
    command = started.start("-m", "llmtunnel", "toy", "--listen", "127.0.0.1:0", name="toy")
    url = command.wait_line(r"toy model server on (http://127\.0\.0\.1:\d+)")[1]
    command.wait_line(f"llmtunnel serve {url}")
    assert b"toy" in run(fetch(f"{url}/v1/models"))
    if os.name == "posix":
        command.interrupt()
        assert command.wait_exit() == 130


def test_as_a_command_it_tells_programs_the_same(started: Processes) -> None:
    command = started.command("toy", "--listen", "127.0.0.1:0")
    url = command.wait_event("listening")["url"]
    assert b"ok" in run(fetch(f"{url}/health"))
    other = started.start("-m", "llmtunnel", "toy", "--listen", url.removeprefix("http://"), name="other")
    assert other.wait_exit() == 2
    other.wait_line("in use by another program")
    other.wait_line("--listen")


async def fetch(url: str) -> bytes:
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        return await response.read()
