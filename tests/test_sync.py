from __future__ import annotations

import _thread
import gc
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llmtunnel
from llmtunnel import aio, sync
from llmtunnel.errors import AddressInUse, AuthenticationFailed, PeerNotFound, SettingError, TunnelError, WaitTimeout
from llmtunnel.status import Phase

from .support.background import SERVED, Background
from .support.embedded import PATIENCE, Heard
from .support.ports import fetch

ROOT = Path(__file__).resolve().parents[1]
LOOP_THREAD = "llmtunnel loop"


@pytest.fixture(scope="module")
def other() -> Iterator[Background]:
    """The other side."""
    with Background() as background:
        yield background


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Each test closes what it opens."""
    yield
    assert not loop_threads()


def loop_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == LOOP_THREAD]


def connected(other: Background, **more: Any) -> sync.Proxy:
    return llmtunnel.proxy(room=SERVED, signal=other.signal, stun=(), listen="127.0.0.1:0", **more)


def test_a_blocking_client_in_the_same_process_uses_a_proxy(other: Background) -> None:
    with connected(other) as proxy:
        assert fetch(f"{proxy.url}/a?b") == b"/a?b"
        assert proxy.openai_base_url == f"{proxy.url}/v1"
        assert proxy.status.phase is Phase.READY
        assert proxy.url in repr(proxy)
        [record] = proxy.records()
        assert record.path == "/a"
        assert proxy.active_requests() == ()
        assert proxy.models() == (), "it is no model server"
    assert proxy.status.phase is Phase.STOPPED
    with pytest.raises(urllib.error.URLError):
        fetch(proxy.url)


def test_both_sides_block_and_share_one_thread(other: Background) -> None:
    server = llmtunnel.serve(other.upstream, room="ours", signal=other.signal, stun=())
    assert server.status.phase is Phase.WAITING
    assert server.url == other.upstream
    with llmtunnel.proxy(room="ours", signal=other.signal, stun=(), listen="127.0.0.1:0") as proxy:
        server.wait(timeout=PATIENCE)
        assert len(loop_threads()) == 1
        assert fetch(proxy.url) == b"ok"
    assert loop_threads(), "the other handle still has it"
    server.close()
    assert not loop_threads()


def test_a_serve_shares_its_invite(other: Background) -> None:
    with llmtunnel.serve(other.upstream, signal=other.signal, stun=()) as server:
        assert server.invite is not None
        assert isinstance(server.invite, llmtunnel.Invite)
        with llmtunnel.proxy(server.invite.code, stun=(), listen="127.0.0.1:0") as proxy:
            assert fetch(proxy.url) == b"ok"


async def test_in_the_thread_of_a_running_loop_they_work_and_the_tunnel_does_not_wait_for_that_loop(
    other: Background,
) -> None:
    """As in a notebook, whose cells run in a loop: blocking it must not block the tunnel."""

    with connected(other) as proxy:
        assert fetch(proxy.url) == b"ok"
        proxy.wait(timeout=0)


def test_on_the_loop_thread_itself_they_raise_and_name_the_async_twin(other: Background) -> None:
    raised: list[TunnelError] = []

    def callback(_: object) -> None:
        for call in (
            proxy.wait,
            proxy.reconnect,
            proxy.close,
            proxy.models,
            lambda: llmtunnel.proxy(room="r"),
            lambda: llmtunnel.serve("ollama", room="r"),
        ):
            try:
                call()
            except TunnelError as exc:
                raised.append(exc)

    with connected(other) as proxy:
        unsubscribe = proxy.subscribe(callback)
        fetch(proxy.url)
        unsubscribe()
        assert [exc.message.split("`")[1] for exc in raised] == [
            *("wait", "reconnect", "close", "models", "proxy", "serve")
        ]
        assert [exc.hint.split("`")[1] for exc in raised] == [
            *("wait", "reconnect", "aclose", "models", "proxy", "serve")
        ]
        assert all("llmtunnel.aio" in exc.hint for exc in raised)


def test_a_wait_that_runs_out_raises_after_its_time_and_leaves_no_thread(other: Background) -> None:
    begun = time.monotonic()
    with pytest.raises(WaitTimeout, match=r"^Serve did not appear within 0\.5 s\.") as caught:
        llmtunnel.proxy(room="nobody", signal=other.signal, stun=(), listen="127.0.0.1:0", timeout=0.5)
    assert 0.4 < time.monotonic() - begun < PATIENCE
    assert caught.value.hint
    assert not loop_threads()


def test_what_cannot_be_opened_raises_as_in_aio_and_leaves_no_thread(other: Background) -> None:
    with connected(other) as proxy:
        port = proxy.url.rpartition(":")[2]
        with pytest.raises(AddressInUse):
            llmtunnel.proxy(room=SERVED, signal=other.signal, listen=f"127.0.0.1:{port}")
    with pytest.raises(SettingError):
        llmtunnel.serve("ftp://x", room="r")
    assert not loop_threads()


def test_an_interrupt_ends_the_wait_and_not_the_tunnel(other: Background) -> None:
    with connected(other) as proxy:
        timer = threading.Timer(0.2, _thread.interrupt_main)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            proxy.wait(Phase.STOPPED, timeout=None)
        timer.join()
        assert fetch(proxy.url) == b"ok"


def test_an_interrupt_of_the_opening_leaves_nothing(other: Background) -> None:
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        llmtunnel.proxy(room="nobody", signal=other.signal, stun=(), listen="127.0.0.1:0")
    timer.join()
    assert not loop_threads()


def test_closing_twice_or_from_two_threads_is_closing_once(other: Background) -> None:
    proxy, heard = connected(other), Heard()
    proxy.subscribe(heard)
    closers = [threading.Thread(target=proxy.close) for _ in range(3)]
    for each in closers:
        each.start()
    for each in closers:
        each.join(PATIENCE)
    proxy.close()
    assert heard.events.count("stopped") == 1
    assert not loop_threads()
    with pytest.raises(TunnelError, match="closed"):
        proxy.wait()


def test_who_waits_while_another_thread_closes_is_told(other: Background) -> None:
    proxy, raised = connected(other), []

    def wait() -> None:
        try:
            proxy.wait(Phase.RECONNECTING, timeout=None)
        except TunnelError as exc:
            raised.append(exc)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    proxy.close()
    waiting.join(PATIENCE)
    assert len(raised) == 1


def test_status_can_be_read_from_any_thread_while_peers_come_and_go(other: Background) -> None:
    with connected(other) as proxy:
        links = proxy._tunnel._room._links.by_id
        [link] = links.values()
        stop = threading.Event()

        def churn() -> None:
            n = 0
            while not stop.is_set():
                links[f"other {n % 50}"] = link
                links.pop(f"other {(n + 25) % 50}", None)
                n += 1

        other_thread = threading.Thread(target=churn)
        other_thread.start()
        try:
            for _ in range(2000):
                assert proxy.status.peers
        finally:
            stop.set()
            other_thread.join()
            for name in [name for name in links if name.startswith("other")]:
                del links[name]


def test_it_connects_anew_when_told_to(other: Background) -> None:
    with connected(other) as proxy:
        heard = Heard()
        proxy.subscribe(heard)
        proxy.reconnect()
        while "signal-connected" not in heard.events:
            time.sleep(0.01)
        assert fetch(proxy.url) == b"ok"
        assert heard.events[0] == "reconnecting"
        assert "peer-lost" not in heard.events
    with pytest.raises(TunnelError, match="closed"):
        proxy.reconnect()


def test_serve_connects_anew_and_puts_peers_out_when_told_to(other: Background) -> None:
    with llmtunnel.serve(other.upstream, room="ours", signal=other.signal, stun=()) as server:
        with llmtunnel.proxy(room="ours", signal=other.signal, stun=(), listen="127.0.0.1:0") as proxy:
            server.wait(timeout=PATIENCE)
            server.reconnect()
            assert fetch(proxy.url) == b"ok"
            server.wait(timeout=PATIENCE)
            with pytest.raises(PeerNotFound, match="nobody"):
                server.kick("nobody")
            server.kick(server.status.peers[0].peer)
            proxy.wait(Phase.FAILED, timeout=PATIENCE)
            assert not server.status.peers


def test_a_handle_that_was_kicked_stays_out_and_who_has_the_code_comes_back_until_it_is_changed(
    other: Background,
) -> None:
    def proxy(code: str) -> llmtunnel.Proxy:
        return llmtunnel.proxy(code, signal=other.signal, stun=(), listen="127.0.0.1:0")

    with llmtunnel.serve(other.upstream, signal=other.signal, stun=()) as server:
        assert server.invite is not None
        code = server.invite.code
        with proxy(code) as first:
            server.wait(timeout=PATIENCE)
            [kicked] = server.status.peers
            server.kick(kicked.peer)
            first.wait(Phase.FAILED, timeout=PATIENCE)
        with proxy(code) as second:
            server.wait(timeout=PATIENCE)
            [again] = server.status.peers
            assert again.fingerprint != kicked.fingerprint
            renewed = server.renew_invite().code
            server.kick(again.peer)
            second.wait(Phase.FAILED, timeout=PATIENCE)
        with pytest.raises(AuthenticationFailed):
            proxy(code)
        with proxy(renewed) as fourth:
            assert fetch(fourth.url) == b"ok"


def test_environment_variables_point_clients_at_the_proxy(other: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-openai")
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    with connected(other) as proxy:
        with proxy.environ():
            assert os.environ["OPENAI_BASE_URL"] == os.environ["OPENAI_API_BASE"] == proxy.openai_base_url
            assert os.environ["OLLAMA_HOST"] == proxy.url
            assert "sk-" not in os.environ["OPENAI_API_KEY"]
        assert os.environ["OPENAI_API_KEY"] == "sk-for-openai"
        assert "OLLAMA_HOST" not in os.environ
        with proxy.environ(api_key="given"):
            assert os.environ["OPENAI_API_KEY"] == "given"
    with connected(other, api_key="the-listeners") as proxy, proxy.environ():
        assert os.environ["OPENAI_API_KEY"] == "the-listeners"


def test_a_handle_that_was_never_closed_is_warned_of(other: Background) -> None:
    proxy = connected(other)
    tunnel, hold = proxy._tunnel, proxy._hold
    with pytest.warns(ResourceWarning, match=f"unclosed llmtunnel proxy: {tunnel.url}"):
        del proxy
        gc.collect()
    assert fetch(tunnel.url) == b"ok", "it goes on: nothing else may be pulled from under a client"
    hold.close()
    closed = connected(other)
    closed.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del closed
        gc.collect()


def test_the_twins_take_the_same_arguments() -> None:
    import inspect

    for name in ("serve", "proxy"):
        ours, theirs = (dict(inspect.signature(getattr(module, name)).parameters) for module in (sync, aio))
        del ours["in_loop"]
        assert [*ours.values()] == [*theirs.values()]


FORGETS = """
import sys, llmtunnel
server = llmtunnel.serve({upstream!r}, room="script", signal={signal!r}, stun=())
proxy = llmtunnel.proxy(room="script", signal={signal!r}, stun=(), listen="127.0.0.1:0")
proxy.subscribe(lambda notice: print(notice.event, flush=True))
print("begun", flush=True)
{more}
"""


def script(other: Background, more: str = "") -> subprocess.Popen[str]:
    code = FORGETS.format(upstream=other.upstream, signal=other.signal, more=more)
    return subprocess.Popen(
        [sys.executable, "-W", "always::ResourceWarning", "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("more", "status"),
    [("", 0), ("sys.exit(3)", 3), ("globals().clear()", 0)],
    ids=["ends", "exits", "has-lost-its-handles"],
)
def test_a_program_that_forgets_to_close_ends_in_order(other: Background, more: str, status: int) -> None:
    process = script(other, more)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert out.split()[0] == "begun"
    assert "stopped" in out.split()
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    assert ("unclosed llmtunnel" in errors) is ("clear" in more)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to a process alone")
def test_ctrl_c_in_a_program_that_waits_ends_it_soon(other: Background) -> None:
    import signal

    process = script(other, "proxy.wait(llmtunnel.Phase.STOPPED, timeout=None)")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT or process.returncode == 130
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "Exception ignored" not in errors
