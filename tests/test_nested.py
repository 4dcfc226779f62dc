from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmtunnel import nested
from llmtunnel.errors import SettingError

ROOT = Path(__file__).resolve().parents[1]


def run_script(code: str) -> str:
    """What a script says, in a process of its own: nest-asyncio2 patches all of asyncio."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:unclosed event loop", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout


def test_without_a_running_loop_it_says_what_else_there_is() -> None:
    with pytest.raises(SettingError, match="needs an event loop") as caught:
        nested.hold("proxy")
    assert "llmtunnel.aio.proxy" in caught.value.hint


def test_a_loop_that_cannot_be_entered_again_is_refused_and_asyncio_left_as_it_was() -> None:
    uvloop = pytest.importorskip("uvloop", reason="there is none for this system")

    async def cell() -> None:
        with pytest.raises(SettingError, match="uvloop's") as caught:
            nested.hold("serve")
        assert "thread of its own" in caught.value.hint
        assert "llmtunnel.aio.serve" in caught.value.hint

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(cell())
    assert not hasattr(asyncio, "_nest_patched")


BOTH_SIDES = """
import asyncio, threading, urllib.request, warnings
import llmtunnel
from llmtunnel.endpoints.toy import Toy
from signal_server.server import SignalServer

async def main():
    async with SignalServer("127.0.0.1", 0) as signal, Toy(delay=0.0) as toy:
        common = {"room": "r", "signal": signal.url, "stun": (), "in_loop": True}
        with llmtunnel.serve(toy.url, **common) as server:
            with llmtunnel.proxy(**common, listen="127.0.0.1:0") as proxy:
                server.wait()
                assert "llmtunnel loop" not in [thread.name for thread in threading.enumerate()]
                answer = await asyncio.to_thread(fetch, proxy.url)
                told = await asyncio.to_thread(proxy.wait, timeout=5)
                print(len(answer) > 10, told, proxy.status.phase)
            print(proxy.status.phase)
            try:
                proxy.wait()
            except llmtunnel.TunnelError as exc:
                print(exc)

def fetch(url):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url + "/v1/models") as response:
        return response.read()

asyncio.run(main())
"""


def test_both_sides_run_in_the_loop_that_their_blocking_calls_are_made_in() -> None:
    assert run_script(BOTH_SIDES).splitlines() == [
        "True None ready",
        "stopped",
        "This tunnel is closed.",
    ]


INTERRUPTED = """
import asyncio, os, signal, threading
from llmtunnel.nested import hold

async def main():
    held = hold("serve")
    ended = []

    async def forever(name):
        try:
            while True:
                await asyncio.sleep(0.001)
        finally:
            ended.append(name)

    other = asyncio.create_task(forever("other"))
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        held.call(forever("ours"))
    except KeyboardInterrupt:
        print("interrupted", ended, other.done())
    print(held.call(asyncio.sleep(0, "goes on")), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    other.cancel()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill with SIGINT ends the process there")
def test_an_interrupt_cancels_what_was_waited_for_and_nothing_else() -> None:
    assert run_script(INTERRUPTED).splitlines() == ["interrupted ['ours'] False", "goes on True"]


FORGOTTEN = """
import asyncio
from llmtunnel.nested import hold

async def last():
    await asyncio.sleep(0.01)
    print("closed in order")

async def main():
    hold("serve").last = last

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
"""


def test_what_was_not_closed_is_closed_as_the_process_ends() -> None:
    assert run_script(FORGOTTEN) == "closed in order\n"


def test_a_loop_that_was_closed_leaves_nothing_to_close() -> None:
    assert run_script(FORGOTTEN + "loop.close()") == ""
