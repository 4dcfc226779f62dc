from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from llmtunnel import aio
from llmtunnel.cli.parsers import WEB
from llmtunnel.cli.web import pages
from llmtunnel.config import ProxySettings, ServeSettings
from llmtunnel.endpoints import discovery
from llmtunnel.endpoints.gateway import Gateway
from llmtunnel.endpoints.ledger import RECORDS
from llmtunnel.endpoints.toy import Toy, ask
from llmtunnel.errors import (
    AddressInUse,
    PeerNotFound,
    SettingError,
    TunnelError,
    Unwelcome,
    UpstreamError,
    UpstreamNotFound,
    VersionMismatch,
    WaitTimeout,
)
from llmtunnel.invite import EXAMPLE
from llmtunnel.paths import Path
from llmtunnel.session.room import Room
from llmtunnel.status import ErrorNotice, Health, Notice, Phase, Role, Stopped, UpstreamStatus
from llmtunnel.tunnel import NO_PAGE
from llmtunnel.upstream import Upstream as Address
from signal_server.page_files import read_folder
from signal_server.server import SignalServer

from .conftest import raised
from .support.embedded import (
    PATIENCE,
    Heard,
    Upstream,
    descriptors,
    fields_of,
    get,
    health,
    proxy,
    quicker,
    server,
    settings,
    started,
    timers,
    until,
    world,
)
from .support.ports import free_port


def nowhere() -> str:
    """A signal server's address where nothing listens."""
    return f"ws://127.0.0.1:{free_port()}"


def other_tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}


# -- serve() and proxy()


async def test_both_sides_can_be_awaited_and_closed() -> None:
    async with Upstream() as upstream, SignalServer("127.0.0.1", 0) as signal:
        serving = await aio.serve(upstream.url, room="r", signal=signal.url, stun=())
        assert serving.status.phase in (Phase.WAITING, Phase.CONNECTING)
        reaching = await aio.proxy(room="r", signal=signal.url, stun=(), listen="127.0.0.1:0")
        assert reaching.status.phase is Phase.READY
        assert await get(reaching.url, "/a?b") == (200, b"/a?b")
        assert reaching.openai_base_url == f"{reaching.url}/v1"
        assert serving.url == upstream.url
        await reaching.aclose()
        await serving.aclose()
        assert reaching.status.phase is serving.status.phase is Phase.STOPPED


async def test_a_serve_makes_an_invite_and_its_code_is_all_that_a_proxy_needs() -> None:
    async with Upstream() as upstream, SignalServer("127.0.0.1", 0) as signal:
        async with aio.serve(upstream.url, signal=signal.url, stun=(), expires=60, once=True) as serving:
            invite = serving.invite
            assert invite is not None
            assert serving.status.room == invite.room
            assert serving.status.secret
            async with aio.proxy(invite.code, stun=(), listen="127.0.0.1:0") as reaching:
                assert await get(reaching.url) == (200, b"ok")
                assert serving.status.peers[0].authenticated
                with pytest.raises(Unwelcome, match="for one proxy") as caught:
                    await aio.proxy(invite, stun=(), listen="127.0.0.1:0")
            shown = [repr(serving), repr(serving.status), repr(caught.value)]
            assert invite.secret not in "".join(shown)
        async with aio.serve(upstream.url, invite=invite, stun=()) as again:
            assert again.invite == invite


async def test_a_link_for_browsers_has_the_code_of_the_moment_and_nothing_else_shows_it() -> None:
    async with Upstream() as upstream, SignalServer("127.0.0.1", 0, pages=pages(read_folder(WEB))) as signal:
        page = f"{signal.url.replace('ws://', 'http://')}/"
        async with aio.serve(upstream.url, signal=signal.url, stun=(), web=True) as serving:
            assert serving.invite is not None
            assert serving.web_url == f"{page}#{serving.invite.code}"
            assert serving.status.web == page
            renewed = serving.renew_invite()
            assert serving.web_url == f"{page}#{renewed.code}"
            assert renewed.secret not in repr(serving) + repr(serving.status)
        async with aio.serve(upstream.url, signal=signal.url, stun=()) as serving:
            assert (serving.web_url, serving.status.web) == (None, "")
    async with Upstream() as upstream, SignalServer("127.0.0.1", 0) as signal:
        async with aio.serve(upstream.url, signal=signal.url, stun=(), web=True) as serving:
            assert (serving.web_url, serving.status.web) == (None, NO_PAGE)
        async with aio.serve(upstream.url, signal=signal.url, stun=(), web="http://localhost:1") as serving:
            assert serving.web_url is not None and serving.web_url.startswith("http://localhost:1/#")


async def test_a_room_and_a_secret_of_ones_own_do_as_well() -> None:
    async with Upstream() as upstream, SignalServer("127.0.0.1", 0) as signal:
        kept: dict[str, Any] = {"room": "r", "secret": "of two", "signal": signal.url, "stun": ()}
        async with aio.serve(upstream.url, **kept) as serving:
            assert serving.invite is None
            async with aio.proxy(**kept, listen="127.0.0.1:0") as reaching:
                assert await get(reaching.url) == (200, b"ok")


async def test_a_serve_exposes_what_its_arguments_say() -> None:
    async with Upstream() as upstream, SignalServer("127.0.0.1", 0) as signal:
        exposed: dict[str, Any] = {"policy": "openai", "allow": ("/a*",), "deny": ("/ab",), "max_body": 10}
        limits: dict[str, Any] = {"max_requests": 2, "max_requests_per_minute": 2}
        serving = aio.serve(upstream.url, room="r", signal=signal.url, stun=(), **exposed, **limits)
        async with serving, aio.proxy(room="r", signal=signal.url, stun=(), listen="127.0.0.1:0") as reaching:
            for path, status in (("/a", 200), ("/b", 403), ("/ab", 403), ("/v1/models", 200), ("/a", 429)):
                assert (await get(reaching.url, path))[0] == status


async def test_both_sides_close_at_the_end_of_async_with() -> None:
    async with Upstream() as upstream, SignalServer("127.0.0.1", 0) as signal:
        async with aio.serve(upstream.url, room="r", signal=signal.url, stun=()) as serving:
            async with aio.proxy(room="r", signal=signal.url, stun=(), listen="127.0.0.1:0") as reaching:
                assert await get(reaching.url) == (200, b"ok")
            assert reaching.status.phase is Phase.STOPPED
        assert serving.status.phase is Phase.STOPPED


async def test_two_proxies_in_one_loop() -> None:
    async with world() as (signal, serve):
        first, second = proxy(signal.url), proxy(signal.url)
        async with started(first, second):
            for each in (first, second):
                await each.wait(timeout=PATIENCE)
            assert first.url != second.url
            assert await asyncio.gather(get(first.url), get(second.url)) == [(200, b"ok")] * 2
            await until(lambda: len(serve.status.peers) == 2)


async def test_a_wait_that_runs_out_says_what_is_wrong_and_what_to_do_and_leaves_nothing() -> None:
    begun, address = time.monotonic(), nowhere()
    with pytest.raises(WaitTimeout) as caught:
        await aio.proxy(room="r", signal=address, stun=(), listen="127.0.0.1:0", timeout=0.5)
    assert 0.4 < time.monotonic() - begun < PATIENCE
    assert str(caught.value).startswith("The signal server was not reached within 0.5 s. ")
    assert "nothing listens there" in str(caught.value)
    assert "--signal" in caught.value.hint
    assert not other_tasks()


async def test_a_wait_for_a_peer_that_does_not_come_says_that_nobody_is_there() -> None:
    async with SignalServer("127.0.0.1", 0) as signal:
        with pytest.raises(TimeoutError) as caught:
            await aio.proxy(room="r", signal=signal.url, stun=(), listen="127.0.0.1:0", timeout=0.5)
        assert str(caught.value) == "Serve did not appear within 0.5 s."
        assert isinstance(caught.value, WaitTimeout)
        assert caught.value.hint == "Check the room's name, and that serve is running."


async def test_a_port_in_use_is_told_with_one_that_is_free_and_nothing_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = descriptors()
        with pytest.raises(AddressInUse) as caught:
            await aio.proxy(room="r", signal=nowhere(), stun=(), listen=f"127.0.0.1:{port}")
        assert caught.value.next_free != port
        assert not other_tasks()
        assert descriptors() == before


async def test_settings_that_cannot_be_used_are_told_at_once_or_when_awaited() -> None:
    for opening in (
        lambda: aio.serve("ftp://x", room="r"),
        lambda: aio.serve("ollama", room=""),
        lambda: aio.serve("ollama", secret="s"),
        lambda: aio.serve("ollama", room="r", once=True),
        lambda: aio.serve("ollama", invite="nonsense"),
        lambda: aio.serve("ollama", invite=EXAMPLE, signal="ws://other"),
        lambda: aio.proxy(),
        lambda: aio.proxy(EXAMPLE, room="r"),
        lambda: aio.proxy("4821309-tulip"),
        lambda: aio.proxy(room="r", listen="nonsense"),
        lambda: aio.proxy(room="r", listen="0.0.0.0:0"),
        lambda: aio.proxy(room="r", api_key=""),
        lambda: aio.proxy(room="r", api_key="k", no_auth=True),
        lambda: aio.proxy(room="r", allow_hosts=("http://a",)),
        lambda: aio.proxy(room="r", allow_hosts=("0.0.0.0",)),
        lambda: aio.proxy(room="r", allow_origins=("*",)),
        lambda: aio.proxy(room="r", listen="::1:8000"),
        lambda: aio.serve("ollama", room="r", allow=("FETCH /v1/models",)),
        lambda: aio.proxy(room="r", stun=("none",)),
    ):
        with pytest.raises(SettingError):
            await opening()
    assert not other_tasks()


async def test_without_an_upstream_one_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing() -> list[discovery.Found]:
        return []

    monkeypatch.setattr(discovery, "discover", nothing)
    with pytest.raises(UpstreamNotFound):
        await aio.serve(room="r", signal=nowhere())


async def test_a_serve_does_not_wait_for_a_peer() -> None:
    async with SignalServer("127.0.0.1", 0) as signal:
        async with aio.serve("http://127.0.0.1:9", room="r", signal=signal.url, stun=()) as serving:
            assert serving.status.phase is Phase.WAITING


async def test_a_cancel_at_any_moment_of_the_opening_leaves_nothing() -> None:
    async with world() as (signal, _serve):
        tasks, before = other_tasks(), descriptors()
        for milliseconds in range(0, 150, 6):
            opening = asyncio.ensure_future(aio.Opening(_make(proxy, signal.url), Phase.READY, PATIENCE))
            await asyncio.sleep(milliseconds / 1000)
            opening.cancel()
            [ended] = await asyncio.gather(opening, return_exceptions=True)
            if isinstance(ended, aio.Proxy):
                await ended.aclose()
            # By the other side's name: serve, in this process too, closes its links to "proxy-…" in its own time.
            assert not {name for name in other_tasks() - tasks if "llmtunnel proxy" in name or "serve-" in name}
        await until(lambda: descriptors() == before, "sockets are closed")
        assert not timers()


async def test_a_cancel_while_the_listener_is_opened_closes_it() -> None:
    for steps in range(12):
        before = descriptors()
        handle = proxy(nowhere())
        starting = asyncio.create_task(handle.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await handle.aclose()
        await until(lambda count=before: descriptors() <= count, "sockets are closed")


def _make(make: Callable[[str], aio.Proxy], signal: str) -> Callable[[], Any]:
    async def made() -> aio.Proxy:
        return make(signal)

    return made


# -- phases and waiting


async def test_phases_over_a_life() -> None:
    async with Upstream() as upstream, SignalServer("127.0.0.1", 0) as signal:
        handle = proxy(signal.url)
        assert handle.status.phase is Phase.STARTING
        assert handle.url == ""
        async with started(handle):
            assert handle.status.phase is Phase.SIGNALING
            await handle.wait(Phase.WAITING, timeout=PATIENCE)
            assert handle.status.phase is Phase.WAITING
            assert handle.status.detail == "Waiting for serve. Is it running, and is the room right?"
            async with started(serve := server(signal.url, upstream.url)):
                await serve.wait(timeout=PATIENCE)
                await handle.wait(timeout=PATIENCE)
                assert handle.status.phase is serve.status.phase is Phase.READY
                assert handle.status.detail == ""
                await handle.wait(Phase.SIGNALING, timeout=0)
            await handle.wait(Phase.RECONNECTING, timeout=PATIENCE)
            async with started(again := server(signal.url, upstream.url)):
                await handle.wait(timeout=PATIENCE)
                await again.wait(timeout=PATIENCE)
        await handle.wait(Phase.STOPPED, timeout=0)
        with pytest.raises(TunnelError, match="stopped before it was ready"):
            await handle.wait(timeout=PATIENCE)


async def test_a_serve_whose_proxies_have_gone_waits_again() -> None:
    async with world() as (signal, serve):
        async with started(proxy(signal.url)):
            await serve.wait(timeout=PATIENCE)
        await until(lambda: serve.status.phase is Phase.WAITING)
        await serve.wait(Phase.WAITING, timeout=0)


async def test_waiting_without_a_limit_ends_with_the_tunnel_and_costs_nothing_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    close = Gateway.aclose

    async def slowly(gateway: Gateway) -> None:
        await asyncio.sleep(0.6)
        await close(gateway)

    monkeypatch.setattr(Gateway, "aclose", slowly)
    handle = proxy(nowhere())
    await handle.start()
    waiting = [asyncio.create_task(handle.wait(timeout=None)) for _ in range(3)]
    stopped = asyncio.create_task(handle.wait_stopped())
    await asyncio.sleep(0.05)
    begun = time.process_time()
    await handle.aclose()
    assert time.process_time() - begun < 0.3
    for each in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(each, TunnelError)
    await stopped
    assert not handle._waiters


async def test_closing_is_the_same_done_once_twice_at_once_or_before_the_start() -> None:
    heard = Heard()
    async with world() as (signal, _serve):
        handle = proxy(signal.url)
        handle.subscribe(heard)
        async with started(handle):
            await handle.wait(timeout=PATIENCE)
            await asyncio.gather(handle.aclose(), handle.aclose())
            await handle.aclose()
        assert len(heard.of(Stopped)) == 1
        async with proxy(signal.url) as unused:
            pass
        assert unused.status.phase is Phase.STOPPED


async def test_a_close_goes_on_where_who_waits_for_it_is_cancelled() -> None:
    async with world() as (signal, _serve):
        handle = proxy(signal.url)
        await handle.start()
        await handle.wait(timeout=PATIENCE)
        closing = asyncio.create_task(handle.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await handle.wait_stopped()
        with pytest.raises(OSError):
            await get(handle.url)


async def test_a_tunnel_that_fails_says_so_to_all_who_wait_and_stays_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(room: Room) -> None:
        await asyncio.sleep(0.01)
        raise VersionMismatch("No common version.", hint="Install another.")

    monkeypatch.setattr(Room, "run", fails)
    heard = Heard()
    handle = proxy(nowhere())
    handle.subscribe(heard)
    async with started(handle):
        with pytest.raises(VersionMismatch):
            await handle.wait(timeout=PATIENCE)
        for call in (handle.wait, handle.wait_stopped):
            [error, *_] = await raised(call)
            assert isinstance(error, VersionMismatch) and error.hint == "Install another."
        assert handle.status.phase is Phase.FAILED
        assert handle.status.detail == "No common version. Install another."
        assert heard.of(ErrorNotice)[0].hint == "Install another."
    assert handle.status.phase is Phase.FAILED
    assert heard.of(Stopped)[0].reason == "No common version."
    with pytest.raises(VersionMismatch):
        await aio.proxy(room="r", signal=nowhere(), listen="127.0.0.1:0")


async def test_a_defect_is_logged_told_and_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks(room: Room) -> None:
        await asyncio.sleep(0.01)
        raise ZeroDivisionError("by us")

    monkeypatch.setattr(Room, "run", breaks)
    heard = Heard()
    handle = proxy(nowhere())
    handle.subscribe(heard)
    async with started(handle):
        with pytest.raises(TunnelError, match="An internal error ended the tunnel") as caught:
            await handle.wait_stopped()
        assert "report" in caught.value.hint
        assert handle.status.phase is Phase.FAILED
        assert "by us" in heard.of(ErrorNotice)[0].message
    assert "ZeroDivisionError" in caplog.text
    caplog.clear()


# -- notices, status, records


async def test_notices_come_in_an_order_that_tells_the_story() -> None:
    async with Upstream() as upstream, SignalServer("127.0.0.1", 0) as signal:
        heard, handle = Heard(), proxy(signal.url)
        handle.subscribe(heard)
        async with started(handle):
            await handle.wait(Phase.WAITING, timeout=PATIENCE)
            async with started(server(signal.url, upstream.url)):
                await handle.wait(timeout=PATIENCE)
                await get(handle.url)
                await until(lambda: "request" in heard.events)
            await handle.wait(Phase.RECONNECTING, timeout=PATIENCE)
            async with started(server(signal.url, upstream.url)):
                await handle.wait(timeout=PATIENCE)
                await handle.aclose()
        times = [notice.time for notice in heard.notices]
        assert times == sorted(times)
        told = [event for event in heard.events if event not in ("signal-connected", "waiting")]
        assert told == [
            "listening",
            "peer-connected",
            "ready",
            "request",
            "peer-lost",
            "reconnecting",
            "peer-connected",
            "ready",
            "totals",
            "stopped",
        ]
        assert heard.events[:3] == ["listening", "signal-connected", "waiting"]


async def test_status_tells_of_peers_and_of_what_passed() -> None:
    async with world() as (signal, serve):
        handle = proxy(signal.url)
        async with started(handle):
            await handle.wait(timeout=PATIENCE)
            assert await get(handle.url, "/four") == (200, b"/four")
            await until(lambda: handle.status.requests == serve.status.requests == 1)
            for side, role in ((handle, Role.PROXY), (serve, Role.SERVE)):
                status = side.status
                assert (status.role, status.room, status.url) == (role, "r", side.url)
                assert (status.bytes_up, status.bytes_down, status.active) == (0, 5, 0)
                [peer] = status.peers
                assert peer.peer.startswith(str(role.other))
                assert (peer.path, peer.version) == (Path.DIRECT, "v2")
                assert abs(peer.since - time.time()) < 60
            assert str(handle.status.phase) in repr(handle)
            assert handle.url in repr(handle)
        assert handle.status.peers == ()
        await until(lambda: not serve.status.peers)
        assert not serve._since, "what is known of a peer goes with it"


async def test_exchanges_under_way_are_counted_and_end_with_the_tunnel() -> None:
    async with world() as (signal, serve):
        handle = proxy(signal.url)
        async with started(handle):
            await handle.wait(timeout=PATIENCE)
            endless = asyncio.create_task(get(handle.url, "/endless"))
            await until(lambda: handle.status.active == serve.status.active == 1)
            await handle.aclose()
            await asyncio.gather(endless, return_exceptions=True)
            [record] = handle.records()
            assert record.error
            assert handle.status.active == 0


async def test_the_last_requests_are_remembered_oldest_first() -> None:
    async with world() as (signal, _serve):
        handle = proxy(signal.url)
        async with started(handle):
            await handle.wait(timeout=PATIENCE)
            for n in range(3):
                await get(handle.url, f"/{n}?key=secret")
            await until(lambda: handle.status.requests == 3)
            assert [record.path for record in handle.records()] == ["/0", "/1", "/2"]
            assert [record.path for record in handle.records(2)] == ["/1", "/2"]
            assert [row["path"] for row in handle.requests(2)] == ["/1", "/2"]
            assert handle.records(0) == ()
            assert handle.requests(0) == []
            assert len(handle.requests(10 * RECORDS)) == 3


async def test_a_subscriber_hears_until_it_has_enough_and_one_that_fails_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(notice: Notice) -> None:
        raise RuntimeError("a subscriber of the test")

    async with world() as (signal, _serve):
        handle = aio.Proxy(ProxySettings(room="r", signal=signal.url, listen="127.0.0.1:0"))
        first, second = Heard(), Heard()
        handle.subscribe(fails)
        unsubscribe = handle.subscribe(first)
        handle.subscribe(second)
        await handle.start()
        unsubscribe()
        unsubscribe()
        await handle.aclose()
        assert first.events == ["listening"]
        assert second.events == ["listening", "stopped"]
    assert "A subscriber raised an exception" in caplog.text
    caplog.clear()


async def test_a_proxy_that_was_never_reached_tells_the_time_of_its_wait() -> None:
    handle = proxy(nowhere(), timeouts=quicker(retry_first=30.0, retry_max=30.0))
    async with started(handle):
        with pytest.raises(WaitTimeout, match=r"not reached within 0\.1 s"):
            await handle.wait(timeout=0.1)


# -- what passes, and what is behind it


async def test_requests_under_way_and_what_passes_are_told_of_both_sides_and_of_each_peer() -> None:
    async with world() as (signal, serve):
        handle = proxy(signal.url)
        async with started(handle):
            await handle.wait(timeout=PATIENCE)
            endless = asyncio.create_task(get(handle.url, "/endless"))
            for side in (handle, serve):
                await until(lambda side=side: side.status.bytes_down >= 3)  # type: ignore[misc]
                [active] = side.active_requests()
                [peer] = side.status.peers
                assert (active.path, active.status, active.peer) == ("/endless", 200, peer.peer)
                assert 0 < active.bytes_down <= side.status.bytes_down
                assert (peer.requests, peer.active, peer.bytes_up) == (0, 1, 0)
                assert 0 < peer.bytes_down <= side.status.bytes_down
            await get(handle.url)
            await until(lambda: serve.status.requests == 1)
            assert [peer.requests for peer in (*handle.status.peers, *serve.status.peers)] == [1, 1]
            await handle.aclose()
            await asyncio.gather(endless, return_exceptions=True)
        await until(lambda: not serve.status.peers)
        assert serve._ledger.of(peer.peer).requests == 0, "what is known of a peer goes with it"
        assert serve.status.requests == 2


async def test_a_model_servers_models_health_and_tokens_are_told() -> None:
    async with Toy(delay=0.001) as toy, SignalServer("127.0.0.1", 0) as signal:
        serving, reaching = server(signal.url, toy.url), proxy(signal.url)
        assert serving.status.upstream == UpstreamStatus()
        async with started(serving, reaching):
            await reaching.wait(timeout=PATIENCE)
            assert await reaching.models() == ("toy",)
            up = UpstreamStatus(health=Health.UP, models=("toy",))
            await until(lambda: serving.status.upstream == up)
            assert reaching.status.upstream is None
            said = b"".join([data async for data in ask(reaching.url, "hello")])
            await until(lambda: serving.status.requests == 2 and reaching.status.requests == 1)
            for side in (serving, reaching):
                record = side.records()[-1]
                assert (record.model, record.tokens) == ("toy", said.count(b'"content": "') - 1)
                assert record.tokens_per_second is not None
            [asked, *_] = serving.records()
            assert asked.path == "/v1/models"


async def test_the_history_has_a_row_for_each_second_and_the_totals_are_told_at_the_end() -> None:
    async with Toy(delay=0.001) as toy, SignalServer("127.0.0.1", 0) as signal:
        serving, reaching = server(signal.url, toy.url), proxy(signal.url)
        heard = Heard()
        reaching.subscribe(heard)
        async with started(serving, reaching):
            await reaching.wait(timeout=PATIENCE)
            assert reaching.history() == [] or reaching.history()[0]["tokens_per_second"] == 0
            said = b"".join([data async for data in ask(reaching.url, "hello")])
            tokens = said.count(b'"content": "') - 1
            await until(lambda: sum(row["tokens_per_second"] or 0 for row in reaching.history()) > 0)
            rows = reaching.history()
            assert list(rows[0]) == [
                *("time", "rtt_ms", "active"),
                *("up_bytes_per_second", "down_bytes_per_second", "tokens_per_second"),
            ]
            times = [row["time"] or 0.0 for row in rows]
            assert times == sorted(times)
            status = reaching.status
            assert (status.requests, status.failed, status.tokens) == (1, 0, tokens)
            assert status.first_byte is not None
            assert status.first_token is not None
            assert status.first_token.p50 >= status.first_byte.p50
            assert "totals" not in heard.events
        assert heard.events[-2:] == ["totals", "stopped"]
        [row] = reaching.requests()
        assert (row["path"], row["tokens"], row["status"]) == ("/v1/chat/completions", tokens, 200)
        phases = [row[f"{name}_ms"] for name in ("queued", "first_byte", "first_body", "first_token", "duration")]
        assert phases == sorted(phases, key=lambda each: each or 0.0)
        assert None not in phases


async def test_an_upstream_that_is_down_is_told_once_and_found_when_it_comes() -> None:
    port = free_port()
    heard = Heard()
    async with SignalServer("127.0.0.1", 0) as signal:
        serving, reaching = server(signal.url, f"http://127.0.0.1:{port}"), proxy(signal.url)
        serving.subscribe(heard)
        async with started(serving, reaching):
            await reaching.wait(timeout=PATIENCE)
            await until(lambda: health(serving) is Health.DOWN)
            with pytest.raises(UpstreamError, match="502") as caught:
                await reaching.models()
            assert "running" in caught.value.hint
            async with Toy(port=port):
                await until(lambda: health(serving) is Health.UP)
                assert await reaching.models() == ("toy",)
        [error] = heard.of(ErrorNotice)
        assert error.message == f"The model server at http://127.0.0.1:{port} does not answer yet. Checking every 3 s."
        assert "--upstream" in error.hint


async def test_models_cannot_be_asked_for_where_nobody_is_reached() -> None:
    handle = proxy(nowhere(), timeouts=quicker(wait_for_peer=0.1))
    async with started(handle):
        with pytest.raises(PeerNotFound) as caught:
            await handle.models()
        assert "llmtunnel serve" in caught.value.hint


async def test_a_serve_that_seeks_puts_requests_to_the_server_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    come: asyncio.Event

    async def seek(tell: Callable[[UpstreamNotFound], None]) -> Address:
        tell(UpstreamNotFound("There is none.", hint="Start one."))
        await come.wait()
        return Address.parse(upstream.url)

    upstream: Upstream
    monkeypatch.setattr(discovery, "seek", seek)
    come = asyncio.Event()
    async with Upstream() as upstream, SignalServer("127.0.0.1", 0) as signal:
        serve, bring, heard = server(signal.url, "127.0.0.1:9", seek=True), proxy(signal.url), Heard()
        serve.subscribe(heard)
        async with started(serve, bring):
            await bring.wait(timeout=PATIENCE)
            assert (await get(bring.url))[0] == 502
            come.set()
            await until(lambda: serve.url == upstream.url)
            assert await get(bring.url) == (200, b"ok")
        [error] = heard.of(ErrorNotice)
        assert error.message == "There is none."


async def test_one_that_still_seeks_is_closed_in_order() -> None:
    async with SignalServer("127.0.0.1", 0) as signal:
        serve = server(signal.url, "127.0.0.1:9", seek=True)
        async with started(serve):
            assert "llmtunnel seek" in other_tasks()
        assert "llmtunnel seek" not in other_tasks()


async def test_what_has_ended_or_not_begun_cannot_connect_anew() -> None:
    tunnel = proxy(nowhere())
    with pytest.raises(TunnelError, match="is starting"):
        tunnel.reconnect()
    async with started(tunnel):
        tunnel.reconnect()
    with pytest.raises(TunnelError, match="is stopped"):
        tunnel.reconnect()


async def test_a_stranger_with_a_wrong_code_is_no_trouble_of_a_serve_that_has_a_proxy() -> None:
    async with Upstream() as upstream, SignalServer("127.0.0.1", 0) as signal:
        common = [fields_of(settings(signal.url, secret=secret)) for secret in ("the right one", "the wrong one")]
        serve = aio.Server(ServeSettings(**common[0], upstream=Address.parse(upstream.url)))
        bring, stranger = (aio.Proxy(ProxySettings(**fields, listen="127.0.0.1:0")) for fields in common)
        heard = Heard()
        serve.subscribe(heard)
        async with started(serve, stranger):
            await until(lambda: heard.of(ErrorNotice), "the wrong secret is told")
            assert serve.status.detail.startswith(heard.of(ErrorNotice)[0].message)
            async with started(bring):
                await bring.wait(timeout=PATIENCE)
                assert serve.status.detail == ""
                async with started(another := aio.Proxy(ProxySettings(**common[1], listen="127.0.0.1:0"))):
                    await until(lambda: another.status.phase is Phase.FAILED, "it has given up")
                    assert serve.status.phase is Phase.READY and serve.status.detail == ""
