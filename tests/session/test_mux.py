from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtunnel.config import Limits, Timeouts
from llmtunnel.errors import ErrorCode, PeerLost, ProtocolError, StreamReset, VersionMismatch
from llmtunnel.paths import Path
from llmtunnel.protocol import frames
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.heads import RequestHead
from llmtunnel.protocol.hello import ALL_FEATURES, Feature, Features
from llmtunnel.session.mux import Session
from llmtunnel.session.stream import Client, Stream
from llmtunnel.status import Role
from llmtunnel.transport.memory import linked_pair
from tests.conftest import raised, run

from ..support.embedded import until
from ..support.pipes import Ear
from ..support.session_pair import GET, OK, POST, echo, exchange, handling, linked, over, read_all, start

Run = Callable[..., Any]

QUICK = Timeouts(
    handshake=0.1, ping_busy=0.05, dead_busy=0.15, ping_idle=0.1, dead_idle=0.3, dead_suspect=0.05, close=0.5
)


async def never(stream: Stream) -> None:
    """A handler that answers nothing."""
    await asyncio.Event().wait()


# -- hello


async def test_two_sessions_say_hello_and_carry_an_exchange() -> None:
    async with linked(echo) as pair:
        assert pair.proxy.features == pair.serve.features == ALL_FEATURES
        assert (pair.proxy.version, pair.serve.version) == ("v2", "v2")
        assert pair.proxy.path is Path.UNKNOWN
        assert await exchange(pair.proxy) == b"hello"


@settings(max_examples=20)
@given(st.frozensets(st.sampled_from(sorted(ALL_FEATURES))))
def test_an_exchange_gives_the_same_bytes_by_whatever_features(features: Features) -> None:
    async def main() -> None:
        async with linked(echo, features=features, limits=Limits(window=20_000)) as pair:
            assert pair.serve.features == features
            assert pair.proxy.version == ("v2" if features - {Feature.SSE} else "v1")
            body = random.randbytes(100_000)
            assert await exchange(pair.proxy, body) == body

    run(main())


@pytest.mark.usefixtures("in_virtual_time")
async def test_a_peer_that_says_no_hello_is_lost() -> None:
    left, _right = linked_pair()
    with pytest.raises(PeerLost):
        await start(left, Role.PROXY, timeouts=QUICK)


async def test_a_peer_of_another_version_is_told_so_and_named() -> None:
    left, right = linked_pair()
    starting = asyncio.create_task(start(right, Role.SERVE, handler=echo), name="serve")
    told = Ear()
    left.attach(told)
    left.send(frames.encode(FrameType.HELLO, 0, b'{"proto":"httptunnel","min_version":2,"max_version":3}'))
    with pytest.raises(VersionMismatch):
        await starting
    await until(lambda: told.closed)
    (message,) = told.messages
    assert message.startswith(frames.encode(FrameType.ERROR, 0, b"version:"))


def test_a_hello_that_is_given_up_leaves_nothing(in_virtual_time: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        left, _right = linked_pair()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await start(left, Role.PROXY)

    in_virtual_time(main())
    gc.collect()
    assert caplog.records == [], "asyncio logs an exception that nobody asked for"


# -- streams beside each other


async def test_many_exchanges_run_at_once() -> None:
    async with linked(echo, limits=Limits(window=10_000)) as pair:
        bodies = [random.randbytes(random.randrange(60_000)) for _ in range(50)]
        assert await asyncio.gather(*(exchange(pair.proxy, body) for body in bodies)) == bodies
        assert pair.proxy.active == pair.serve.active == 0


@pytest.mark.usefixtures("in_virtual_time")
async def test_a_stalled_stream_stalls_no_other_and_takes_no_more_than_its_window() -> None:
    taken = 0

    async def flood(stream: Stream) -> None:
        nonlocal taken
        if stream.request.target == b"/echo":
            return await echo(stream)
        await stream.send_response(OK)
        while True:
            await stream.send(bytes(10_000))
            taken += 10_000

    window = 100_000
    async with linked(flood, limits=Limits(window=window)) as pair:
        stalled = await pair.proxy.open(GET, ended=True)
        await stalled.response()
        await asyncio.sleep(0.02)
        assert window - 10_000 <= taken <= window
        stream = await pair.proxy.open(RequestHead(method=b"POST", target=b"/echo"))
        for _ in range(20):
            await stream.send(b"x" * 20_000)
            assert sum([len(await stream.receive()) for _ in range(1)]) > 0
        assert taken <= window
        got = 0
        while got < 3 * window:
            got += len(await stalled.receive())
        assert taken <= got + 2 * window, "read again, it goes on"


async def test_a_v1_stream_whose_reader_stalls_ends_alone() -> None:
    async def flood(stream: Stream) -> None:
        if stream.request.target == b"/echo":
            return await echo(stream)
        await stream.send_response(OK)
        while True:
            await stream.send(bytes(10_000))

    async with linked(flood, limits=Limits(v1_backlog=200_000), features=frozenset()) as pair:
        stalled = await pair.proxy.open(GET, ended=True)
        await stalled.response()
        await until(lambda: not pair.proxy.active)
        got = 0
        with pytest.raises(StreamReset) as caught:
            while data := await stalled.receive():
                got += len(data)
        assert caught.value.code is ErrorCode.FLOW_CONTROL
        assert 0 < got <= 200_000
        stream = await pair.proxy.open(RequestHead(method=b"POST", target=b"/echo"))
        await stream.send(b"still here")
        await stream.response()
        assert await stream.receive() == b"still here"


@pytest.mark.within(30)
@pytest.mark.usefixtures("in_virtual_time")
async def test_a_channel_without_room_holds_the_senders_back() -> None:
    taken = 0

    async def flood(stream: Stream) -> None:
        nonlocal taken
        await stream.send_response(OK)
        while True:
            await stream.send(bytes(1000))
            taken += 1000

    async with linked(flood, limits=Limits(window=100_000_000), room=50_000, delay=0.05) as pair:
        stream = await pair.proxy.open(GET, ended=True)
        await stream.response()
        before = taken
        await asyncio.sleep(0.01)
        assert taken - before <= 50_000 + 65_536 + 2 * 65_536
        total = 0
        while total < 500_000:
            total += len(await stream.receive())


@pytest.mark.usefixtures("in_virtual_time")
async def test_open_waits_until_serve_takes_one_more() -> None:
    release = asyncio.Event()

    async def wait(stream: Stream) -> None:
        await release.wait()
        await echo(stream)

    async with linked(wait, limits=Limits(streams=2)) as pair:
        first, _second = [await pair.proxy.open(POST) for _ in range(2)]
        waiting = [asyncio.create_task(pair.proxy.open(POST), name=f"opening {number}") for number in range(2)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        first.reset(ErrorCode.CANCELLED, "enough")
        await until(lambda: any(task.done() for task in waiting))
        assert sum(task.done() for task in waiting) == 1
        release.set()
        for stream in [_second] + [task.result() for task in waiting if task.done()]:
            await stream.send_end()
            assert await read_all(stream) == b""
        last = await asyncio.gather(*waiting)
        assert len({stream.id for stream in last}) == 2


@pytest.mark.usefixtures("in_virtual_time")
async def test_open_that_waits_hears_of_the_sessions_end() -> None:
    async with linked(never, limits=Limits(streams=1)) as pair:
        await pair.proxy.open(GET)
        waiting = asyncio.create_task(pair.proxy.open(GET), name="opening")
        await asyncio.sleep(0.01)
        pair.network.kill()
        with pytest.raises(PeerLost):
            await waiting


async def test_a_head_that_is_too_large_opens_nothing() -> None:
    async with linked(echo) as pair:
        with pytest.raises(ProtocolError) as caught:
            await pair.proxy.open(RequestHead(method=b"GET", target=b"/" + b"x" * 70_000))
        assert caught.value.code is ErrorCode.TOO_LARGE
        assert pair.proxy.active == 0
        assert await exchange(pair.proxy) == b"hello"


# -- ends of a stream


@pytest.mark.parametrize("features", [ALL_FEATURES, frozenset()], ids=["v2", "v1"])
async def test_a_cancelled_stream_cancels_its_handler(features: Features) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(stream: Stream) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise

    async with linked(wait, features=features) as pair:
        stream = await pair.proxy.open(GET, ended=True)
        await begun.wait()
        stream.reset(ErrorCode.CANCELLED, "The client went away.")
        stream.reset(ErrorCode.INTERNAL, "again")
        await ended.wait()
        assert pair.proxy.active == pair.serve.active == 0
        with pytest.raises(StreamReset) as caught:
            await stream.response()
        assert (caught.value.code, caught.value.remote) == (ErrorCode.CANCELLED, False)


@pytest.mark.parametrize("features", [ALL_FEATURES, frozenset()], ids=["v2", "v1"])
async def test_a_handler_with_a_defect_ends_its_stream_alone(
    features: Features, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(stream: Stream) -> None:
        if stream.request.method == b"GET":
            await stream.send_response(OK)
            await stream.send(b"half")
            raise ZeroDivisionError
        await echo(stream)

    with caplog.at_level(logging.ERROR):
        async with linked(fail, features=features) as pair:
            stream = await pair.proxy.open(GET, ended=True)
            with pytest.raises(StreamReset) as caught:
                await stream.response()
                await read_all(stream)
            assert (caught.value.code, caught.value.remote) == (ErrorCode.INTERNAL, True)
            assert await exchange(pair.proxy) == b"hello"
    assert [record.exc_info is not None for record in caplog.records] == [True]


class Clients:
    """A handler that keeps whose streams came, until `let`; it answers none."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}

    async def __call__(self, stream: Stream) -> None:
        self.streams[stream.id] = stream
        try:
            await asyncio.Event().wait()
        finally:
            del self.streams[stream.id]

    async def client_of(self, stream: Stream) -> Client:
        await until(lambda: stream.id in self.streams)
        return self.streams[stream.id].client


async def test_streams_share_a_client_where_one_comes_after_the_other_and_else_not() -> None:
    came = Clients()
    async with linked(came) as pair:
        first = await pair.proxy.open(GET, ended=True)
        second = await pair.proxy.open(GET, ended=True, after=first)
        third = await pair.proxy.open(GET, ended=True, after=second)
        other = await pair.proxy.open(GET, ended=True)
        mine, yours = await came.client_of(first), await came.client_of(other)
        assert await came.client_of(second) is await came.client_of(third) is mine
        assert yours is not mine
        third.close_client()
        await until(lambda: mine.left)
        assert not yours.left
        assert set(came.streams) == {first.id, second.id, third.id, other.id}, "a close ends no stream"
        again = await pair.proxy.open(GET, ended=True, after=third)  # as a hostile proxy may say
        assert (await came.client_of(again)).left is False
        assert await came.client_of(again) is not mine


async def test_a_stream_after_one_of_another_session_is_of_a_new_client() -> None:
    async with linked(never) as before:
        last = await before.proxy.open(GET, ended=True)
        second = await before.proxy.open(GET, ended=True, after=last)
    came = Clients()
    async with linked(came) as pair:
        others = await pair.proxy.open(GET, ended=True)
        stream = await pair.proxy.open(GET, ended=True, after=second)
        assert stream.request.client == 0
        assert await came.client_of(stream) is not await came.client_of(others)
        second.close_client()  # of a session that has ended: nothing happens


async def test_all_clients_leave_with_their_session() -> None:
    came = Clients()
    async with linked(came) as pair:
        streams = [await pair.proxy.open(GET, ended=True) for _ in range(3)]
        clients = [await came.client_of(stream) for stream in streams]
        told: list[Client] = []
        for client in clients:
            client.on_left = partial(told.append, client)
        await pair.proxy.aclose()
        await until(lambda: len(told) == 3)
        assert all(client.left for client in clients)


@pytest.mark.parametrize("features", [frozenset({Feature.SSE}), ALL_FEATURES - {Feature.CLIENT}], ids=["v1", "v2"])
async def test_without_the_feature_each_stream_is_its_only_request(features: Features) -> None:
    came = Clients()
    async with linked(came, features=features) as pair:
        first = await pair.proxy.open(GET)
        second = await pair.proxy.open(GET, after=first)
        assert await came.client_of(first) is not await came.client_of(second)
        assert (await came.client_of(first)).left
        assert (await came.client_of(second)).left
        second.close_client()
        assert not pair.serve._clients


def remembered() -> list[Client]:
    """Serve's clients that have not left, of all of this process."""
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, Client) and not each.left]


async def test_a_client_is_remembered_no_longer_than_something_is_kept_for_it() -> None:
    kept: list[Client] = []

    async def answer(stream: Stream) -> None:
        if stream.request.target == b"/kept":
            kept.append(stream.client)
        await echo(stream)

    async with linked(answer) as pair:
        for target in [b"/"] * 500 + [b"/kept"]:
            stream = await pair.proxy.open(RequestHead(method=b"GET", target=target), ended=True)
            await stream.response()
            assert await read_all(stream) == b""
        assert remembered() == kept
        kept.clear()
        assert not remembered()


@pytest.mark.within(10)
async def test_an_end_and_a_cancel_in_one_message_cancel_the_handler() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(stream: Stream) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with linked(wait) as pair:
        stream = await pair.proxy.open(POST)
        await begun.wait()
        end = frames.encode(FrameType.REQ_END, stream.id, frames.encode_length(0))
        reset = frames.encode(FrameType.RESET, stream.id, frames.encode_reset(ErrorCode.CANCELLED, "gone"))
        pair.network.send(frames.bundle([end, reset]))
        await ended.wait()


async def test_a_handler_that_returns_without_an_answer_leaves_no_client_waiting() -> None:
    async def say_nothing(stream: Stream) -> None:
        pass

    async with linked(say_nothing) as pair:
        stream = await pair.proxy.open(GET, ended=True)
        with pytest.raises(StreamReset) as caught:
            await stream.response()
        assert caught.value.code is ErrorCode.INTERNAL


async def test_a_handler_that_ends_a_stream_with_its_own_error_says_which() -> None:
    async def break_off(stream: Stream) -> None:
        await stream.send_response(OK)
        await stream.send(b"half")
        stream.reset(ErrorCode.UPSTREAM, "It broke off.")

    async with linked(break_off) as pair:
        stream = await pair.proxy.open(GET, ended=True)
        await stream.response()
        assert await stream.receive() == b"half"
        with pytest.raises(StreamReset, match="It broke off") as caught:
            await stream.receive()
        assert caught.value.code is ErrorCode.UPSTREAM


@pytest.mark.parametrize("features", [ALL_FEATURES, frozenset()], ids=["v2", "v1"])
async def test_an_answer_before_the_requests_end_stands_and_the_rest_goes_nowhere(features: Features) -> None:
    async def decline(stream: Stream) -> None:
        await stream.receive()
        await stream.send_response(OK)
        await stream.send(b"enough")
        await stream.send_end()

    async with linked(decline, features=features, limits=Limits(window=2000)) as pair:
        stream = await pair.proxy.open(POST)
        await stream.send(b"a beginning")
        await stream.response()
        assert await read_all(stream) == b"enough"
        if features:
            await until(lambda: pair.proxy.active == 0)
            with pytest.raises(StreamReset) as caught:
                await stream.send(bytes(10_000))
            assert caught.value.code is ErrorCode.NO_ERROR
        else:
            await stream.send(bytes(10_000))
            await stream.send_end()
        assert pair.proxy.active == 0


async def test_a_peer_that_resets_faster_than_handlers_clean_up_is_refused() -> None:
    release = asyncio.Event()
    running = 0

    async def linger(stream: Stream) -> None:
        nonlocal running
        running += 1
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()
            running -= 1

    async with linked(linger, limits=Limits(streams=10)) as pair:
        for _ in range(50):
            stream = await pair.proxy.open(GET)
            await asyncio.sleep(0.001)
            stream.reset(ErrorCode.CANCELLED, "again")
        assert running <= 20
        refused = await pair.proxy.open(GET)
        with pytest.raises(StreamReset) as caught:
            await refused.response()
        assert caught.value.code is ErrorCode.REFUSED
        release.set()
        await until(lambda: running == 0)


# -- the session's end


async def waiters(session: Session) -> list[asyncio.Task[object]]:
    """A task for each thing that can be waited for."""
    reading, writing, heading = [await session.open(POST) for _ in range(3)]

    async def write() -> object:
        while True:
            await writing.send(bytes(100_000))

    async def read() -> object:
        await reading.response()
        return await reading.receive()

    tasks = [
        asyncio.create_task(write(), name="writer"),
        asyncio.create_task(read(), name="reader"),
        asyncio.create_task(heading.response(), name="head"),
    ]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in tasks)
    return tasks


async def silent(stream: Stream) -> None:
    if stream.id == 1:
        await stream.send_response(OK)
    await never(stream)


@pytest.mark.parametrize("how", ["killed", "closed by us", "closed by the peer", "cut"])
@pytest.mark.usefixtures("in_virtual_time")
async def test_every_waiter_hears_that_the_session_is_lost(how: str) -> None:
    async with linked(silent, timeouts=QUICK) as pair:
        tasks = await waiters(pair.proxy)
        match how:
            case "killed":
                pair.network.kill()
            case "closed by us":
                await pair.proxy.aclose()
            case "closed by the peer":
                await pair.serve.aclose()
            case "cut":
                pair.network.cut()
        async with asyncio.timeout(2):
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(end) for end in ends] == [PeerLost] * 3
            assert isinstance(await over(pair.proxy), PeerLost)
            await over(pair.serve)
        await raised(lambda: pair.proxy.open(GET))
        [error, *_] = ends
        assert all(end is not error for end in ends[1:])  # each task has a traceback of its own


@pytest.mark.usefixtures("in_virtual_time")
async def test_the_end_of_a_session_cancels_its_handlers() -> None:
    ended = 0

    async def wait(stream: Stream) -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            ended += 1

    async with linked(wait) as pair:
        for _ in range(5):
            await pair.proxy.open(GET)
        await until(lambda: handling(pair.serve) == 5)
        await asyncio.sleep(0)
        await pair.serve.aclose()
        assert ended == 5
        await pair.serve.aclose()


async def test_a_close_tells_the_peer_why() -> None:
    async with linked(echo) as pair:
        await pair.proxy.aclose()
        end = await over(pair.serve)
        assert str(end) == "The other side has stopped."
        assert pair.serve.error is end


async def test_a_peer_that_breaks_the_protocol_is_told_and_lost() -> None:
    left, right = linked_pair()
    log = Ear()
    left.attach(log)
    starting = asyncio.create_task(start(right, Role.SERVE, handler=echo), name="serve")
    left.send(frames.encode(FrameType.REQ_BODY, 1, b"x"))
    with pytest.raises(PeerLost):
        await starting
    await until(lambda: log.messages)
    assert log.messages[0][0] == FrameType.ERROR


# -- silence


@pytest.mark.usefixtures("in_virtual_time")
async def test_an_idle_session_lives_on_pings_and_learns_the_round_trip() -> None:
    async with linked(echo, timeouts=QUICK, delay=0.005) as pair:
        await asyncio.sleep(0.6)
        assert pair.proxy.error is None and pair.serve.error is None
        rtts = [session.rtt for session in (pair.proxy, pair.serve) if session.rtt is not None]
        assert rtts and all(rtt >= 0.01 for rtt in rtts)
        assert await exchange(pair.proxy) == b"hello"


@pytest.mark.usefixtures("in_virtual_time")
async def test_the_round_trip_is_known_after_one() -> None:
    began = asyncio.get_running_loop().time()
    async with linked(echo, delay=0.005) as pair:
        await until(lambda: pair.proxy.rtt is not None and pair.serve.rtt is not None)
        assert asyncio.get_running_loop().time() - began < Timeouts().ping_busy
        assert pair.proxy.rtt == pytest.approx(0.01)
        assert pair.serve.rtt == pytest.approx(0.01)


@pytest.mark.usefixtures("in_virtual_time")
async def test_a_silent_death_is_noticed_while_idle() -> None:
    async with linked(echo, timeouts=QUICK) as pair:
        pair.network.cut()
        async with asyncio.timeout(5):
            for session in (pair.proxy, pair.serve):
                assert isinstance(await over(session), PeerLost)


@pytest.mark.usefixtures("in_virtual_time")
async def test_a_peer_that_is_said_to_be_gone_is_asked_at_once() -> None:
    patient = Timeouts(ping_busy=30, dead_busy=60, ping_idle=30, dead_idle=60, dead_suspect=0.05)

    async with linked(echo, timeouts=patient) as pair:
        await until(lambda: pair.proxy.rtt is not None)
        await asyncio.sleep(5)
        before = pair.proxy.line.last_heard
        pair.proxy.suspect()
        await until(lambda: pair.proxy.line.last_heard > before)
        assert pair.proxy.error is None
        assert await exchange(pair.proxy) == b"hello"
        pair.network.cut()
        pair.proxy.suspect()
        async with asyncio.timeout(5):
            assert isinstance(await over(pair.proxy), PeerLost)
