"""Streams: at once, many, cancelled, stalled, at bounded memory."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmtunnel.protocol.heads import MAX_INTERIM

from ..support.exchanges import chunked, request, response
from ..support.processes import Process, Processes, Signal, Tunnel
from ..support.raw_client import Client, fetch, get
from ..support.raw_server import Do, reply
from ..support.upstream import Upstream, pattern, wait_until

GIGABYTE = 10**9
MAY_GROW = 16 * 1024 * 1024
SLOWEST = 10.0
"""Seconds that a small request may take beside a stalled one, on a busy machine: one that waits for it never ends."""
SOON = 20.0
"""Seconds within which the upstream must have noticed that a client left: the promise is one, machines are busy."""


@pytest.fixture
def own(processes: Processes, signal: Signal, own_upstream: Upstream, request: pytest.FixtureRequest) -> Tunnel:
    """A tunnel of the test's own, whose memory is its alone."""
    return processes.tunnel(request.node.name[-40:], own_upstream.url, signal.url)


def test_each_event_arrives_before_the_next_one_is_sent(tunnel: Tunnel, upstream: Upstream) -> None:
    with Client(tunnel.address) as client:
        client.send(request(b"GET", b"/acknowledged?count=20", b"Accept: application/json"))
        body = client.body(client.head(), b"GET")
        for number in range(20):
            assert next(body) == b"data: %d\n\n" % number
            upstream.acknowledge()
        assert list(body) == []


def test_a_response_head_arrives_before_its_body_begins(tunnel: Tunnel, upstream: Upstream) -> None:
    with Client(tunnel.address) as client:
        client.send(request(b"GET", b"/acknowledged?count=0"))
        assert client.head().status == 200
        upstream.answers[b"/head-only"] = reply(response(b"200 OK", b"Content-Length: 2"), 60.0, b"ok")
    with Client(tunnel.address) as client:
        client.send(request(b"GET", b"/head-only"))
        assert client.head().values(b"content-length") == [b"2"]


def test_a_request_body_arrives_while_it_is_still_sent(tunnel: Tunnel, upstream: Upstream) -> None:
    with Client(tunnel.address) as client:
        client.send(request(b"POST", b"/echo", b"Transfer-Encoding: chunked"))
        body = client.body(client.head(), b"POST")
        for word in (b"one", b"two", b"three"):
            client.send(b"%x\r\n%b\r\n" % (len(word), word))
            assert next(body) == word
        client.send(b"0\r\n\r\n")
        assert list(body) == []


@pytest.mark.parametrize("target", [b"/endless", b"/silent", b"/big?size=1000000000"])
@pytest.mark.parametrize("leave", [Client.close, Client.abort], ids=["close", "reset"])
def test_the_upstream_notices_when_a_client_leaves(
    leave: object, target: bytes, tunnel: Tunnel, upstream: Upstream
) -> None:
    client = Client(tunnel.address)
    client.send(request(b"GET", target))
    wait_until(lambda: upstream.requests, "the upstream is asked")
    if target != b"/silent":
        client.head()
    assert callable(leave)
    leave(client)
    took = wait_until(lambda: upstream.requests[0].left, "the upstream notices", timeout=SOON)
    print(f"noticed after {took:.3f} s")


def test_a_client_that_leaves_ends_its_own_request_only(tunnel: Tunnel, upstream: Upstream) -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(get, tunnel.address, "/tokens?name=other&count=50")
        for _ in range(5):
            with Client(tunnel.address) as client:
                client.send(request(b"GET", b"/endless"))
                client.head()
        assert other.result().body.count(b"data: other ") == 50


def grown(processes: tuple[Process, ...], before: list[int]) -> list[int]:
    """How many bytes each process holds more than before."""
    return [process.resident - then for process, then in zip(processes, before, strict=True)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stalled_download_stalls_nobody_else_and_holds_little_memory(own: Tunnel, own_upstream: Upstream) -> None:
    both = (own.serve, own.proxy)
    warm_up(own)
    before = [process.resident for process in both]
    with Client(own.address) as client:
        client.send(request(b"GET", b"/big?size=%d" % GIGABYTE))
        assert client.head().status == 200
        sent = wait_until_still(own_upstream)
        assert sent < 64 * 1024 * 1024
        slowest = max(timed_get(own) for _ in range(20))
        growth = grown(both, before)
        print(f"sent {sent:,}; serve, proxy grew by {growth}; slowest GET beside it {slowest * 1000:.0f} ms")
        assert max(growth) < MAY_GROW
        assert slowest < SLOWEST


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stalled_upload_stalls_nobody_else_and_holds_little_memory(own: Tunnel, own_upstream: Upstream) -> None:
    both = (own.serve, own.proxy)
    warm_up(own)
    before = [process.resident for process in both]
    with Client(own.address) as client:
        client.socket.setblocking(False)
        client.socket.sendall(request(b"POST", b"/deaf", b"Content-Length: 200000000"))
        sent = push_until_it_stalls(client)
        assert sent < 64 * 1024 * 1024
        slowest = max(timed_get(own) for _ in range(20))
        growth = grown(both, before)
        print(f"sent {sent:,}; serve, proxy grew by {growth}; slowest GET beside it {slowest * 1000:.0f} ms")
        assert max(growth) < MAY_GROW
        own_upstream.hear()
        wait_until(lambda: push(client), "the upload goes on when the upstream reads")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_interim_heads_for_clients_that_do_not_read_are_held_in_little_memory(
    own: Tunnel, own_upstream: Upstream
) -> None:
    both = (own.serve, own.proxy)
    warm_up(own)
    before = [process.resident for process in both]
    early = response(b"103 Early Hints", b"Link: " + b"x" * 30_000)
    own_upstream.answers[b"/early"] = reply(*(step for _ in range(MAX_INTERIM - 50) for step in (early, 0.008)), 60.0)
    with Client(own.address, receive_buffer=4096) as client:
        client.send(request(b"GET", b"/early"))
        time.sleep(9)  # 28 MB, of which the system's own buffers take 4
        growth = grown(both, before)
        print(f"serve, proxy grew by {growth}")
        assert max(growth) < MAY_GROW / 2
        assert timed_get(own) < SLOWEST


def warm_up(tunnel: Tunnel) -> None:
    """Load what the processes load when first used, buffers included."""
    for _ in range(3):
        assert len(get(tunnel.address, "/big?size=3000000").body) == 3_000_000
        assert fetch(tunnel.address, request(b"POST", b"/x", b"Content-Length: 3000000", body=bytes(3_000_000))).whole


def wait_until_still(upstream: Upstream) -> int:
    """How much the upstream could send before it had to wait."""
    sent = -1
    while sent != upstream.site.sent:
        sent = upstream.site.sent
        time.sleep(0.7)
    return sent


def push(client: Client) -> int:
    """Send what the socket takes now."""
    try:
        return client.socket.send(bytes(65_536))
    except BlockingIOError:
        return 0


def push_until_it_stalls(client: Client) -> int:
    """Send until nothing has been taken for a while; how much was."""
    sent, last = 0, time.monotonic()
    while time.monotonic() - last < 0.7:
        if size := push(client):
            sent, last = sent + size, time.monotonic()
        else:
            time.sleep(0.01)
    return sent


def timed_get(tunnel: Tunnel) -> float:
    """Seconds that a small request takes."""
    begin = time.monotonic()
    assert get(tunnel.address).body == b"ok"
    return time.monotonic() - begin


def test_a_download_whose_reader_pauses_arrives_whole(tunnel: Tunnel, upstream: Upstream) -> None:
    size = 30_000_000
    with Client(tunnel.address) as client:
        client.send(request(b"GET", b"/big?size=%d" % size))
        head = client.head()
        time.sleep(0.5)
        received, piece = 0, pattern(0, 1 << 16)
        for data in client.body(head, b"GET"):
            at = received % len(piece)
            expected = (piece * (len(data) // len(piece) + 2))[at : at + len(data)]
            assert data == expected
            received += len(data)
        assert received == size


def test_64_streams_at_once_are_all_whole_and_their_own(tunnel: Tunnel, upstream: Upstream) -> None:
    with ThreadPoolExecutor(64) as pool:
        targets = [f"/tokens?name=stream{number}&count=30&pause=0.03" for number in range(64)]
        found = list(pool.map(lambda target: get(tunnel.address, target, timeout=60), targets))
    for number, one in enumerate(found):
        assert one.whole
        assert one.body == b"".join(b"data: stream%d %d\n\n" % (number, event) for event in range(30))


def test_200_requests_at_once_are_all_answered(tunnel: Tunnel, upstream: Upstream) -> None:
    for number in range(200):
        body = pattern(number * 1000, 1000 + number)
        upstream.answers[b"/%d" % number] = reply(
            0.1, response(b"200 OK", b"Transfer-Encoding: chunked", body=chunked(body))
        )
    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(lambda number: get(tunnel.address, f"/{number}", timeout=60), range(200)))
    assert [one.body for one in found] == [pattern(number * 1000, 1000 + number) for number in range(200)]


def test_uploads_and_downloads_at_once_are_all_right(tunnel: Tunnel, upstream: Upstream) -> None:
    def echo(number: int) -> bool:
        body = pattern(number * 7, 500_000)
        asked = request(b"POST", b"/echo", b"Content-Length: 500000", body=body)
        with Client(tunnel.address, timeout=60) as client, ThreadPoolExecutor(1) as sender:
            sending = sender.submit(client.socket.sendall, asked)
            answered = client.response(b"POST")
            sending.result()
            return answered.whole and answered.body == body

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(echo, range(12)))


def test_a_broken_stream_among_many_breaks_alone(tunnel: Tunnel, upstream: Upstream) -> None:
    half = response(b"200 OK", b"Content-Length: 10") + b"half"
    upstream.answers[b"/half"] = reply(half, 0.2, Do.RESET)

    def wholes() -> Iterator[bool]:
        with ThreadPoolExecutor(16) as pool:
            targets = ["/half" if number % 4 == 0 else f"/tokens?name=n{number}&count=20" for number in range(16)]
            yield from (one.whole for one in pool.map(lambda target: get(tunnel.address, target), targets))

    assert list(wholes()) == [number % 4 != 0 for number in range(16)]


def test_a_client_that_only_listens_after_half_closing_gets_its_answer(tunnel: Tunnel, upstream: Upstream) -> None:
    """``nc`` and some health checks end their half when they have asked: an answer that is on its way still comes."""
    for address in (upstream.address, tunnel.address):
        with Client(address) as client:
            client.send(request(b"GET", b"/slowly", b"Connection: close"))
            upstream.answers[b"/slowly"] = reply(0.2, response(b"200 OK", b"Content-Length: 2", body=b"ok"))
            client.socket.shutdown(socket.SHUT_WR)
            assert client.response(b"GET").body == b"ok"
