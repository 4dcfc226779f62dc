"""Processes that are forked from one that has, or had, a tunnel: as multiprocessing and notebooks make them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ..support.background import SERVED, Background
from ..support.kernel import kernel
from ..support.processes import environment

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks elsewhere")

PRELUDE = """
    import asyncio, os, socket, sys, threading, time, urllib.request
    import llmtunnel
    from llmtunnel import aio, runtime
    if {loop!r} == "asyncio":
        runtime.loop_factory = lambda: None
    ROOM = dict(room={room!r}, signal={signal!r}, stun=(), listen="127.0.0.1:0")

    def get(url):
        with urllib.request.urlopen(url + "/path", timeout=20) as response:
            return response.read()

    def fork(child):
        before = os.fork()
        if before == 0:
            child()  # and on to the child's usual end
            sys.exit(0)
        return before

    def ended(pid):
        status = os.waitpid(pid, 0)[1]
        assert status == 0, f"the child ended with {{status}}"

    def refused(call):
        try:
            call()
        except llmtunnel.TunnelError as exc:
            assert "forked" in str(exc), exc
        else:
            raise AssertionError("it was not refused")
"""

WARNINGS = ("-X", "faulthandler", "-W", "default", "-W", "ignore:This process:DeprecationWarning")
"""All but Python's own about a fork beside threads."""

PROGRAMS = {
    "while a tunnel is up, which goes on": """
        proxy = llmtunnel.proxy(**ROOM)
        assert get(proxy.url) == b"/path"
        ended(fork(lambda: None))
        assert get(proxy.url) == b"/path"
        proxy.close()
    """,
    "after a tunnel was closed": """
        with llmtunnel.proxy(**ROOM) as proxy:
            assert get(proxy.url) == b"/path"
        ended(fork(lambda: None))
    """,
    "within the block of a tunnel, which the child leaves": """
        with llmtunnel.proxy(**ROOM) as proxy:
            pid = os.fork()
            if pid == 0:
                sys.exit(0)
            ended(pid)
            assert get(proxy.url) == b"/path"
            assert proxy.status.phase == "ready"
    """,
    "where every call is refused, and closing does nothing": """
        proxy = llmtunnel.proxy(**ROOM)
        def child():
            refused(proxy.wait)
            refused(proxy.reconnect)
            refused(proxy.models)
            repr(proxy), proxy.status, proxy.requests()
            proxy.close()
            proxy.close()
        ended(fork(child))
        assert get(proxy.url) == b"/path"
        proxy.close()
    """,
    "where another tunnel is made": """
        proxy = llmtunnel.proxy(**ROOM)
        pid = os.fork()
        if pid == 0:
            with llmtunnel.proxy(**ROOM) as other:
                assert get(other.url) == b"/path"
            sys.exit(0)
        ended(pid)
        assert get(proxy.url) == b"/path"
        proxy.close()
    """,
    "by multiprocessing": """
        import multiprocessing
        proxy = llmtunnel.proxy(**ROOM)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
            assert get(proxy.url) == b"/path"
            pool.close()
            pool.join()
        proxy.close()
    """,
    "on a loop of the program's own, which the child leaves as multiprocessing does": """
        async def main():
            async with aio.proxy(**ROOM) as proxy:
                url = proxy.url
                assert await asyncio.to_thread(get, url) == b"/path"
                pid = os.fork()
                if pid == 0:
                    await proxy.aclose()
                    os._exit(0)
                await asyncio.to_thread(ended, pid)
                assert await asyncio.to_thread(get, url) == b"/path"
                assert proxy.status.phase == "ready"
        runtime.run(main())
    """,
    "which outlives the tunnel, and keeps neither its port nor its connections": """
        proxy = llmtunnel.proxy(**ROOM)
        assert get(proxy.url) == b"/path"
        port = int(proxy.url.rpartition(":")[2])
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        assert client.recv(1000)
        begun, begin = os.pipe()
        end, ending = os.pipe()
        def child():
            client.close()
            os.write(begin, b"x")
            os.close(ending)
            os.read(end, 1)
        pid = fork(child)
        os.read(begun, 1)
        proxy.close()
        client.settimeout(20)
        assert client.recv(1000) == b"", "the connection ends although the child goes on"
        client.close()
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))
        os.close(ending)
        ended(pid)
    """,
}


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("case", PROGRAMS)
def test_a_child_is_forked(case: str, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with Background() as other:
        signal = other.signal.replace("127.0.0.1", "localhost")  # a name, which uvloop resolves on threads of its own
        prelude = textwrap.dedent(PRELUDE).format(loop=loop, room=SERVED, signal=signal)
        done = subprocess.run(
            [sys.executable, *WARNINGS, "-c", prelude + textwrap.dedent(PROGRAMS[case])],
            env=environment({}),
            timeout=60,
            check=False,
            capture_output=True,
            text=True,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("in_loop", [False, True])
def test_multiprocessing_forks_from_a_notebook(tmp_path: Path, in_loop: bool) -> None:
    prelude = """
import asyncio, multiprocessing, urllib.request, llmtunnel
def get(url):
    with urllib.request.urlopen(url + "/path", timeout=20) as response:
        return response.read().decode()
"""
    with Background() as other, kernel(tmp_path, code=prelude) as notebook:
        notebook.run(
            f"proxy = llmtunnel.proxy(room={SERVED!r}, signal={other.signal!r}, stun=(), listen='127.0.0.1:0',"
            f" in_loop={in_loop})"
        )
        asked = "await asyncio.to_thread(get, proxy.url)"  # a blocking request would wait for itself in the loop
        assert notebook.run(asked).result == "'/path'"
        pool = "multiprocessing.get_context('fork').Pool(2)"
        assert (
            notebook.run(f"with {pool} as pool:\n    results = pool.map(abs, [-1, -2, -3])\nresults").result
            == "[1, 2, 3]"
        )
        assert notebook.run(asked).result == "'/path'"
        assert notebook.run("str(proxy.status.phase)").result == "'ready'"
        notebook.run("proxy.close()")
