"""What happens when a process dies, goes silent, comes back or was never there."""

from __future__ import annotations

import json
import signal as signals
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from ..support.exchanges import request
from ..support.ports import free_port
from ..support.processes import PATIENCE, Address, Process, Processes, Signal
from ..support.raw_client import Broken, Client, Response, fetch, get
from ..support.raw_server import Do, reply
from ..support.upstream import Upstream, wait_until

AGAIN_WITHIN = 15.0
"""Seconds until a tunnel must work again; what it takes on an idle machine is printed."""

needs_unix = pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP and SIGINT")


@dataclass(slots=True)
class Begun:
    """A request whose answer has begun."""

    client: Client
    head: Response

    def check_broken(self) -> None:
        """The answer ends, and never as if whole."""
        with self.client, pytest.raises(Broken):
            for _ in self.client.body(self.head, b"GET"):
                pass


def begin(address: Address, target: bytes) -> Begun:
    """Send a request, and see its answer begin."""
    client = Client(address)
    client.send(request(b"GET", target))
    head = client.head()
    assert head.status == 200
    return Begun(client, head)


def measure_again(address: Address, since: float, what: str) -> None:
    """Ask until the answer is right; errors in between must be told as such."""

    def answered() -> bool:
        got = get(address)
        assert (got.status, got.body) == (200, b"ok") or got.status in (502, 503)
        return got.status == 200

    wait_until(answered, f"{what}: the tunnel answers again", timeout=AGAIN_WITHIN)
    print(f"{what}: answers again after {time.monotonic() - since:.2f} s")


def check_error(got: Response, status: int) -> str:
    """It is an error as OpenAI clients show them; its message."""
    assert (got.status, got.whole) == (status, True)
    error = json.loads(got.body)["error"]
    assert error["type"]
    assert "code" in error
    return str(error["message"])


def test_three_proxies_share_a_serve_and_all_recover_when_it_is_killed(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    room = "three"
    serve = processes.serve(room, own_upstream.url, signal.url)
    proxies = [processes.proxy(room, signal.url) for _ in range(3)]
    for proxy in proxies:
        proxy.process.wait_event("ready")
    clients = [begin(proxy.address, target) for proxy in proxies for target in (b"/slow", b"/endless")]
    assert len({event["peer"] for event in serve.events if event["event"] == "peer-connected"}) == 3

    serve.kill()
    killed = time.monotonic()
    for client in clients:
        client.check_broken()
    print(f"clients knew after {time.monotonic() - killed:.2f} s")
    restarted = time.monotonic()
    processes.serve(room, own_upstream.url, signal.url)
    for proxy in proxies:
        measure_again(proxy.address, restarted, "serve killed and restarted")


def test_a_serve_that_is_killed_and_restarted_at_once_is_found_again(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    tunnel = processes.tunnel("at once", own_upstream.url, signal.url)
    serve = tunnel.serve
    for _ in range(2):
        serve.kill()
        killed = time.monotonic()
        serve = processes.serve("at once", own_upstream.url, signal.url)
        measure_again(tunnel.address, killed, "serve killed, started again at once")


def test_a_serve_is_found_again_through_the_originals_signal_server(
    processes: Processes, own_upstream: Upstream
) -> None:
    signal = processes.original_signal()
    tunnel = processes.tunnel("original", own_upstream.url, signal.url)
    client = begin(tunnel.address, b"/endless")
    tunnel.serve.kill()
    killed = time.monotonic()
    client.check_broken()
    processes.serve("original", own_upstream.url, signal.url)
    measure_again(tunnel.address, killed, "serve killed, original signal server")


def test_a_proxy_that_is_killed_frees_the_upstream_and_another_takes_its_place(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    tunnel = processes.tunnel("proxy killed", own_upstream.url, signal.url)
    client = begin(tunnel.address, b"/endless")
    tunnel.proxy.kill()
    killed = time.monotonic()
    client.check_broken()
    took = wait_until(lambda: own_upstream.requests[0].left, "the upstream is freed", timeout=AGAIN_WITHIN)
    print(f"upstream freed after {took:.2f} s")
    tunnel.serve.wait_event("peer-lost")
    host, port = tunnel.address
    again = processes.proxy("proxy killed", signal.url, listen=f"{host}:{port}")
    assert again.address == tunnel.address
    measure_again(again.address, killed, "proxy killed and restarted")


def test_the_tunnel_outlives_its_signal_server_and_new_proxies_join_when_it_is_back(
    processes: Processes, own_upstream: Upstream
) -> None:
    first = processes.signal()
    tunnel = processes.tunnel("signal killed", own_upstream.url, first.url)
    with Client(tunnel.address) as client:
        client.send(request(b"GET", b"/tokens?name=on&count=60"))
        first.process.kill()
        answer = client.response(b"GET")
        assert (answer.whole, answer.body.count(b"data: on")) == (True, 60)
    assert get(tunnel.address).body == b"ok"
    for process in (tunnel.serve, tunnel.proxy):
        process.wait_event("reconnecting")
        assert process.count("peer-lost") == 0

    restarted = time.monotonic()
    processes.signal(listen=f"127.0.0.1:{first.port}")
    second = processes.proxy("signal killed", first.url)
    measure_again(second.address, restarted, "signal killed and restarted, a new proxy")
    tunnel.proxy.wait_event("signal-connected", after=1)
    assert get(tunnel.address).body == b"ok"
    assert tunnel.proxy.count("peer-lost") == 0


def test_serve_and_proxy_wait_for_a_signal_server_that_comes_late(processes: Processes, own_upstream: Upstream) -> None:
    port = free_port()
    processes.serve("late", own_upstream.url, f"ws://127.0.0.1:{port}").wait_event("reconnecting")
    proxy = processes.proxy("late", f"ws://127.0.0.1:{port}")
    proxy.process.wait_event("reconnecting")
    came = time.monotonic()
    processes.signal(listen=f"127.0.0.1:{port}")
    measure_again(proxy.address, came, "signal server came late")


def test_an_upstream_that_is_killed_breaks_its_answers_gives_502_and_works_when_it_is_back(
    processes: Processes, signal: Signal
) -> None:
    upstream = processes.start("-m", "tests.support.upstream", name="upstream")
    port = int(upstream.wait_line(r"upstream on (\d+)")[1])
    tunnel = processes.tunnel("upstream killed", f"http://127.0.0.1:{port}", signal.url)
    clients = [begin(tunnel.address, target) for target in (b"/slow", b"/endless", b"/tokens?name=x&count=999")]
    upstream.kill()
    for client in clients:
        client.check_broken()
    message = check_error(get(tunnel.address), 502)
    assert "is not running" in message and str(port) not in message  # a client need not know where it is
    restarted = time.monotonic()
    processes.start("-m", "tests.support.upstream", str(port), name="upstream").wait_line("upstream on")
    measure_again(tunnel.address, restarted, "upstream killed and restarted")
    assert tunnel.proxy.count("peer-lost") == 0


def test_a_reset_from_an_idle_upstream_connection_is_not_seen_by_the_next_client(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    """An upstream closes a connection that serve keeps for later: the next request goes on a new one."""
    ends = (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Do.CLOSE)
    own_upstream.answers[b"/ends"] = reply(*ends)
    tunnel = processes.tunnel("idle upstream", own_upstream.url, signal.url)
    for _ in range(20):
        assert get(tunnel.address, "/ends").body == b"ok"


@needs_unix
def test_a_frozen_serve_is_noticed_by_its_silence_and_used_again_when_it_thaws(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    tunnel = processes.tunnel("frozen serve", own_upstream.url, signal.url)
    client = begin(tunnel.address, b"/endless")
    tunnel.serve.freeze()
    frozen = time.monotonic()
    client.check_broken()
    print(f"silence noticed after {time.monotonic() - frozen:.2f} s")
    tunnel.proxy.wait_event("peer-lost")
    tunnel.serve.thaw()
    measure_again(tunnel.address, time.monotonic(), "serve frozen and thawed")


@needs_unix
def test_a_frozen_proxy_is_noticed_and_its_upstream_requests_end(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    tunnel = processes.tunnel("frozen proxy", own_upstream.url, signal.url)
    with begin(tunnel.address, b"/endless").client:
        tunnel.proxy.freeze()
        took = wait_until(lambda: own_upstream.requests[0].left, "the upstream is freed", timeout=AGAIN_WITHIN)
        print(f"upstream freed after {took:.2f} s")
        tunnel.serve.wait_event("peer-lost")
        tunnel.proxy.thaw()
    measure_again(tunnel.address, time.monotonic(), "proxy frozen and thawed")


def test_without_an_upstream_a_request_is_502_and_says_what_to_do(processes: Processes, signal: Signal) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        tunnel = processes.tunnel("no upstream", f"http://127.0.0.1:{port}", signal.url)
        message = check_error(get(tunnel.address), 502)
        assert "Ask the person who runs serve to start it." in message and str(port) not in message


def test_without_a_peer_a_request_is_503_and_says_when_to_come_again(processes: Processes, signal: Signal) -> None:
    proxy = processes.proxy("nobody", signal.url)
    got = get(proxy.address)
    assert check_error(got, 503)
    assert int(got.values(b"retry-after")[0]) > 0


def test_a_request_waits_for_a_peer_that_comes_soon(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    proxy = processes.proxy("soon", signal.url)
    with Client(proxy.address) as client:
        client.send(request(b"GET", b"/"))
        processes.serve("soon", own_upstream.url, signal.url)
        assert client.response(b"GET").body == b"ok"


def test_a_second_serve_is_told_that_the_room_is_full_and_takes_over_when_it_is_not(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    tunnel = processes.tunnel("two serves", own_upstream.url, signal.url)
    second = processes.serve("two serves", own_upstream.url, signal.url)
    second.wait_line(r'"event": ?"(error|reconnecting)".* full')
    tunnel.serve.kill()
    killed = time.monotonic()
    second.wait_event("ready")
    measure_again(tunnel.address, killed, "serve killed, another was waiting")


def test_a_proxy_too_many_is_told_so_and_comes_in_when_there_is_room(
    processes: Processes, own_upstream: Upstream
) -> None:
    signal = processes.signal("--max-proxies", "1")
    tunnel = processes.tunnel("small", own_upstream.url, signal.url)
    second = processes.proxy("small", signal.url)
    second.process.wait_line(r'"event": ?"(error|reconnecting)".* full')
    tunnel.proxy.kill()
    measure_again(second.address, time.monotonic(), "a place in the room came free")


def misfit(processes: Processes, name: str, room: str, signal: str) -> Process:
    """A peer whose handshake is wrong."""
    return processes.start("-m", "tests.reference.misfits", name, "--room", room, "--signal", signal, name=name)


@pytest.mark.parametrize("name", ["serve-of-version-9", "serve-that-knows-no-version"])
def test_a_proxy_that_meets_another_version_exits_4_and_says_why(
    name: str, processes: Processes, signal: Signal
) -> None:
    misfit(processes, name, name, signal.url).wait_event("joined")
    proxy = processes.proxy(name, signal.url)
    assert proxy.process.wait_exit() == 4
    assert any("version" in str(event.get("message")) for event in proxy.process.events)


def test_serve_refuses_peers_with_a_strange_hello_and_serves_on(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    serve = processes.serve("strange", own_upstream.url, signal.url, "--log-level", "info")
    serve.wait_event("signal-connected")

    def turned_away() -> int:  # notices are few, so that strangers do not fill a screen: the log has the others
        return serve.count("error") + sum("was not accepted" in line for line in serve.errors)

    strange = [
        *("proxy-of-another-protocol", "proxy-of-another-version", "proxy-without-json"),
        *("proxy-without-hello", "proxy-that-floods"),
    ]
    for number, name in enumerate(strange, 1):
        stranger = misfit(processes, name, "strange", signal.url)
        wait_until(lambda most=number: turned_away() >= most, f"{name} is turned away", timeout=2 * PATIENCE)
        stranger.kill()
    proxy = processes.proxy("strange", signal.url)
    proxy.process.wait_event("ready")
    assert get(proxy.address).body == b"ok"
    assert serve.running


@needs_unix
@pytest.mark.parametrize(("end", "status"), [(signals.SIGINT, 130), (signals.SIGTERM, 143)])
@pytest.mark.parametrize("who", ["serve", "proxy"])
def test_a_stopped_side_ends_its_streams_with_an_error_and_exits_as_the_shell_expects(
    who: str, end: signals.Signals, status: int, processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    tunnel = processes.tunnel(f"{who} {status}", own_upstream.url, signal.url)
    clients = [begin(tunnel.address, target) for target in (b"/slow", b"/endless")]
    stopped, other = (tunnel.serve, tunnel.proxy) if who == "serve" else (tunnel.proxy, tunnel.serve)
    stop: dict[signals.Signals, Callable[[], object]] = {
        signals.SIGINT: stopped.interrupt,
        signals.SIGTERM: stopped.stop,
    }
    stop[end]()
    assert stopped.wait_exit() == status
    assert stopped.events[-1]["event"] == "stopped"
    for client in clients:
        client.check_broken()
    other.wait_event("peer-lost")
    wait_until(lambda: all(one.left for one in own_upstream.requests), "the upstream is freed", timeout=5)


def test_localhost_reaches_the_proxy_over_both_ip_versions(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    tunnel = processes.tunnel("localhost", own_upstream.url, signal.url)
    _, port = tunnel.address
    assert get(("localhost", port)).body == b"ok"
    assert get(("127.0.0.1", port)).body == b"ok"
    if has_ipv6_loopback():
        assert get(("::1", port)).body == b"ok"


def has_ipv6_loopback() -> bool:
    """Whether this machine has ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_port_in_use_is_named_with_one_that_is_free(processes: Processes, signal: Signal) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        proxy = processes.member("proxy", "taken", signal.url, "--listen", f"127.0.0.1:{port}")
        assert proxy.wait_exit() == 2
        error = proxy.wait_event("error")
        assert f"127.0.0.1:{port}" in error["message"]
        assert int("".join(filter(str.isdigit, error["hint"]))) > port


def test_each_request_is_told_with_its_bytes_and_times(
    processes: Processes, signal: Signal, own_upstream: Upstream
) -> None:
    tunnel = processes.tunnel("told", own_upstream.url, signal.url)
    fetch(tunnel.address, request(b"POST", b"/told?key=secret", b"Content-Length: 5", body=b"hello"))
    for side in (tunnel.serve, tunnel.proxy):
        told = side.wait_event("request", timeout=PATIENCE)
        assert (told["method"], told["path"], told["status"]) == ("POST", "/told", 200)
        assert (told["bytes_up"], told["bytes_down"]) == (5, 2)
        assert told["duration_ms"] >= told["first_byte_ms"] >= 0
        assert not any("secret" in line for line in side.lines)
