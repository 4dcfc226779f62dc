"""Peers of ours with the original's, in both roles, through the original's signal server and through ours."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..support.exchanges import request, response, sized, streamed
from ..support.processes import Address, Process, Processes, Proxy, Signal
from ..support.raw_client import Broken, Client, fetch, get
from ..support.raw_server import Do, reply
from ..support.upstream import Upstream, pattern


@pytest.fixture(scope="module")
def original_signal(started: Processes) -> Signal:
    """The original's signal server."""
    return started.original_signal()


@pytest.fixture(scope="module", params=["original signal", "our signal"])
def meeting_place(request: pytest.FixtureRequest, original_signal: Signal, signal: Signal) -> Signal:
    """Both signal servers, one after the other."""
    return original_signal if request.param == "original signal" else signal


@pytest.fixture(scope="module", params=["serve first", "proxy first"])
def original_serve_and_our_proxy(
    request: pytest.FixtureRequest, started: Processes, meeting_place: Signal, shared_upstream: Upstream
) -> Address:
    """The proxy's address; who comes first waits and then offers."""
    room = f"original serve {request.param} {meeting_place.port}"
    if request.param == "serve first":
        serve = started.original_serve(room, shared_upstream.url, meeting_place.url)
        serve.wait_event("joined")
        proxy = started.proxy(room, meeting_place.url)
    else:
        proxy = started.proxy(room, meeting_place.url)
        proxy.process.wait_event("signal-connected")
        started.original_serve(room, shared_upstream.url, meeting_place.url)
    assert proxy.process.wait_event("peer-connected")["version"] == "v1"
    return proxy.address


@pytest.fixture(scope="module", params=["serve first", "proxy first"])
def our_serve_and_original_proxy(
    request: pytest.FixtureRequest, started: Processes, meeting_place: Signal, shared_upstream: Upstream
) -> Address:
    """The proxy's address."""
    room = f"our serve {request.param} {meeting_place.port}"
    if request.param == "serve first":
        serve = started.serve(room, shared_upstream.url, meeting_place.url)
        serve.wait_event("signal-connected")
        proxy = started.original_proxy(room, meeting_place.url)
    else:
        proxy = started.original_proxy(room, meeting_place.url)
        proxy.process.wait_event("joined")
        serve = started.serve(room, shared_upstream.url, meeting_place.url)
    assert serve.wait_event("peer-connected")["version"] == "v1"
    proxy.process.wait_event("ready")
    return proxy.address


def test_our_proxy_works_with_the_original_serve(original_serve_and_our_proxy: Address, upstream: Upstream) -> None:
    check_exchanges(original_serve_and_our_proxy, upstream)


def test_our_serve_works_with_the_original_proxy(our_serve_and_original_proxy: Address, upstream: Upstream) -> None:
    check_exchanges(our_serve_and_original_proxy, upstream)


def check_exchanges(address: Address, upstream: Upstream) -> None:
    """What any HTTP client would do, within what v1 can carry."""
    upstream.answers[b"/a?b=%2F"] = reply(response(b"418 x", b"X-A: 1", b"Content-Length: 3", body=b"tea"))
    got = fetch(address, request(b"GET", b"/a?b=%2F", b"X-Client: yes"))
    assert (got.status, got.body, got.values(b"x-a"), got.whole) == (418, b"tea", [b"1"], True)
    assert upstream.requests[-1].target == b"/a?b=%2F"
    assert upstream.requests[-1].values(b"x-client") == [b"yes"]

    assert fetch(address, sized(b"POST", b"/post", b"hello")).body == b"ok"
    assert (upstream.requests[-1].method, upstream.requests[-1].body) == (b"POST", b"hello")
    assert fetch(address, streamed(b"PUT", b"/put", b"hel", b"lo")).body == b"ok"
    assert upstream.requests[-1].body == b"hello"
    assert fetch(address, sized(b"PUT", b"/big-up", pattern(0, 1_000_000))).body == b"ok"
    assert upstream.requests[-1].length == 1_000_000

    big = pattern(0, 3_000_000)
    upstream.answers[b"/big-down"] = reply(response(b"200 OK", b"Content-Length: 3000000", body=big))
    assert fetch(address, request(b"GET", b"/big-down")).body == big
    assert fetch(address, request(b"HEAD", b"/head")).status == 200

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda number: get(address, f"/tokens?name=s{number}&count=10"), range(16)))
    assert [one.body.count(b"data: s%d " % number) for number, one in enumerate(found)] == [10] * 16


def test_events_come_one_by_one_from_the_original_serve(
    original_serve_and_our_proxy: Address, upstream: Upstream
) -> None:
    check_events(original_serve_and_our_proxy, upstream)


def test_events_come_one_by_one_to_the_original_proxy(
    our_serve_and_original_proxy: Address, upstream: Upstream
) -> None:
    check_events(our_serve_and_original_proxy, upstream)


def check_events(address: Address, upstream: Upstream) -> None:
    """Each event is sent only after the one before has arrived."""
    with Client(address) as client:
        client.send(request(b"GET", b"/acknowledged?count=5"))
        body = client.body(client.head(), b"GET")
        for number in range(5):
            assert next(body) == b"data: %d\n\n" % number
            upstream.acknowledge()
        assert list(body) == []


def test_a_response_that_the_original_serve_breaks_off_does_not_look_whole(
    original_serve_and_our_proxy: Address, upstream: Upstream
) -> None:
    half = response(b"200 OK", b"Transfer-Encoding: chunked") + b"4\r\nhalf\r\n"
    upstream.answers[b"/half"] = reply(half, 0.1, Do.RESET)
    got = fetch(original_serve_and_our_proxy, request(b"GET", b"/half"))
    assert (got.status, got.body, got.whole) == (200, b"half", False)


def test_a_client_that_lags_far_behind_the_original_serve_loses_its_answer_alone(
    processes: Processes, original_signal: Signal, upstream: Upstream
) -> None:
    """v1 has no credit: what the original sends must be taken, and is kept up to a cap."""
    processes.original_serve("lagging", upstream.url, original_signal.url)
    proxy = processes.proxy("lagging", original_signal.url)
    with Client(proxy.address, receive_buffer=65_536) as client:
        client.send(request(b"GET", b"/big?size=30000000"))
        head = client.head()
        proxy.process.wait_line("lags too far behind")
        assert get(proxy.address).body == b"ok"
        with pytest.raises(Broken):
            for _ in client.body(head, b"GET"):
                pass
    assert proxy.process.wait_event("request", path="/big")["error"]


def test_two_of_ours_speak_v2_through_the_originals_signal_server(
    processes: Processes, original_signal: Signal, upstream: Upstream
) -> None:
    tunnel = processes.tunnel("ours", upstream.url, original_signal.url)
    assert tunnel.proxy.wait_event("peer-connected")["version"] == "v2"
    upstream.answers[b"/"] = reply(response(b"200 OK", b"X: 1", b"X: 2", b"Content-Length: 0"))
    assert get(tunnel.address).values(b"x") == [b"1", b"2"]


def says_full(process: Process) -> None:
    """It tells its user, in one line, that the room is full."""
    process.wait_line(r'"event": ?"(error|reconnecting)".* full')
    assert process.running


def test_a_second_proxy_is_told_that_the_originals_room_is_full_and_gets_in_when_it_is_not(
    processes: Processes, original_signal: Signal, upstream: Upstream
) -> None:
    first = processes.tunnel("two", upstream.url, original_signal.url)
    second = processes.proxy("two", original_signal.url)
    says_full(second.process)
    assert get(second.address).status == 503
    assert get(first.address).body == b"ok"
    first.proxy.kill()
    begin = time.monotonic()
    second.process.wait_event("ready")
    print(f"in after {time.monotonic() - begin:.1f} s")
    assert get(second.address).body == b"ok"


def test_an_original_proxy_beside_one_of_ours_is_told_that_our_room_is_full(
    processes: Processes, signal: Signal, upstream: Upstream
) -> None:
    ours = processes.tunnel("mixed", upstream.url, signal.url)
    original: Proxy = processes.original_proxy("mixed", signal.url)
    assert "full" in str(original.process.wait_event("refused")["message"])
    assert get(ours.address).body == b"ok"


def test_one_of_ours_beside_an_original_proxy_is_told_that_our_room_is_full(
    processes: Processes, signal: Signal, upstream: Upstream
) -> None:
    processes.serve("mixed again", upstream.url, signal.url)
    original = processes.original_proxy("mixed again", signal.url)
    original.process.wait_event("ready")
    ours = processes.proxy("mixed again", signal.url)
    says_full(ours.process)
    assert get(original.address).body == b"ok"


def test_the_original_serve_and_proxy_work_with_each_other(
    processes: Processes, original_signal: Signal, upstream: Upstream
) -> None:
    processes.original_serve("originals", upstream.url, original_signal.url)
    proxy = processes.original_proxy("originals", original_signal.url)
    proxy.process.wait_event("ready")
    check_exchanges(proxy.address, upstream)
    check_events(proxy.address, upstream)
