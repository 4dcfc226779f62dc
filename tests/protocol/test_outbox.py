from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.protocol import frames
from llmtunnel.protocol.frames import MAX_MESSAGE, Frame, FrameType
from llmtunnel.protocol.journal import journals_of
from llmtunnel.protocol.outbox import QUANTUM, SHARED_ROOM, STREAM_ROOM, Outbox

from ..support.core_pair import frames_of

PING = frames.encode(FrameType.PING, 0)


def messages(outbox: Outbox, count: int | None = None) -> list[bytes]:
    taken: list[bytes] = []
    while count is None or len(taken) < count:
        message = outbox.next_message()
        if message is None:
            break
        taken.append(message)
    return taken


def body(outbox: Outbox, stream: int, data: bytes) -> int:
    """Queue as much of a body as there is room for."""
    size = min(len(data), outbox.room(stream))
    if size:
        outbox.add_body(stream, FrameType.RES_BODY, memoryview(data)[:size])
    return size


def head(outbox: Outbox, stream: int, text: bytes = b"{}") -> None:
    outbox.add_frame(stream, frames.encode(FrameType.RES_HEADERS, stream, text))


def end(outbox: Outbox, stream: int) -> None:
    outbox.add_frame(stream, frames.encode(FrameType.RES_END, stream))


def test_an_empty_outbox_has_nothing_to_say() -> None:
    outbox = Outbox()
    assert not outbox
    assert outbox.next_message() is None


def test_a_streams_frames_keep_their_order() -> None:
    outbox = Outbox()
    head(outbox, 1)
    body(outbox, 1, b"one")
    body(outbox, 1, b"two")
    end(outbox, 1)
    assert [(frame.type, frame.payload) for frame in frames_of(messages(outbox))] == [
        (FrameType.RES_HEADERS, b"{}"),
        (FrameType.RES_BODY, b"one"),
        (FrameType.RES_BODY, b"two"),
        (FrameType.RES_END, b""),
    ]


def test_control_goes_first_however_much_waits() -> None:
    for bundles in (False, True):
        outbox = Outbox()
        outbox.bundles = bundles
        for stream in (1, 2, 3):
            body(outbox, stream, bytes(STREAM_ROOM))
        outbox.add_control(PING)
        assert frames_of(messages(outbox, 1))[0].type == FrameType.PING


def test_in_the_midst_of_bundles_control_waits_for_one_frame_at_most() -> None:
    outbox = Outbox()
    outbox.bundles = True
    for stream in (1, 2, 3):
        body(outbox, stream, bytes(STREAM_ROOM))
    messages(outbox, 1)
    outbox.add_control(PING)
    assert FrameType.PING in [frame.type for frame in frames_of(messages(outbox, 1))[:2]]


def test_a_token_waits_at_most_one_quantum_of_each_other_stream() -> None:
    outbox = Outbox()
    for stream in range(1, 9):
        body(outbox, stream, bytes(STREAM_ROOM))
    messages(outbox, 3)
    body(outbox, 99, b"token")
    before: Counter[int] = Counter()
    for frame in frames_of(messages(outbox)):
        if frame.stream == 99:
            break
        before[frame.stream] += len(frame.payload)
    assert set(before) == set(range(1, 9))
    assert max(before.values()) <= QUANTUM


def test_new_streams_heads_go_in_the_order_in_which_they_were_opened() -> None:
    outbox = Outbox()
    body(outbox, 1, bytes(STREAM_ROOM))
    for stream in range(2, 6):
        head(outbox, stream)
        body(outbox, stream, bytes(STREAM_ROOM))
    heads = [frame.stream for frame in frames_of(messages(outbox)) if frame.type == FrameType.RES_HEADERS]
    assert heads == [2, 3, 4, 5]


def test_a_stream_has_room_for_so_much_and_again_when_some_has_left() -> None:
    outbox = Outbox()
    assert body(outbox, 1, bytes(10 * STREAM_ROOM)) == STREAM_ROOM
    assert outbox.room(1) == 0
    assert outbox.room(2) == STREAM_ROOM
    assert outbox.take_cut() == set()
    messages(outbox, 1)
    assert outbox.room(1) == QUANTUM
    assert outbox.take_cut() == {1}
    assert outbox.take_cut() == set()


def test_what_a_stream_has_queued_can_be_dropped_and_others_stay() -> None:
    outbox = Outbox()
    for stream in (1, 2):
        head(outbox, stream)
        body(outbox, stream, bytes(STREAM_ROOM))
    messages(outbox, 2)
    outbox.drop(1)
    outbox.drop(1)
    assert outbox.room(1) == STREAM_ROOM
    assert {frame.stream for frame in frames_of(messages(outbox))} == {2}


def test_dropping_all_streams_leaves_control() -> None:
    outbox = Outbox()
    outbox.bundles = True
    for stream in (1, 2):
        body(outbox, stream, bytes(STREAM_ROOM))
    messages(outbox, 1)
    outbox.add_control(PING)
    outbox.drop_streams()
    assert messages(outbox) == [PING]
    assert not outbox


def test_small_frames_share_a_message_where_bundles_are_agreed_and_only_there() -> None:
    outbox = Outbox()
    for stream in range(1, 65):
        body(outbox, stream, b"token")
    outbox.bundles = True
    assert len(messages(outbox)) == 1
    for stream in range(1, 65):
        body(outbox, stream, b"token")
    outbox.bundles = False
    assert len(messages(outbox)) == 64


def test_a_frame_too_large_for_a_bundle_goes_alone() -> None:
    outbox = Outbox()
    outbox.bundles = True
    head(outbox, 1, bytes(frames.MAX_PAYLOAD))
    end(outbox, 1)
    assert [len(message) for message in messages(outbox)] == [frames.MAX_MESSAGE, 5]


@pytest.mark.parametrize(("spare", "count"), [(0, 1), (-1, 2)])
def test_a_bundle_may_be_as_long_as_a_message_and_no_longer(spare: int, count: int) -> None:
    outbox = Outbox()
    outbox.bundles = True
    first = 60_000
    second = frames.MAX_MESSAGE - 3 * frames.HEADER.size - 2 * 2 - first - spare
    head(outbox, 1, bytes(first))
    head(outbox, 2, bytes(second))
    taken = messages(outbox)
    assert len(taken) == count
    assert len(taken[0]) == frames.MAX_MESSAGE or count == 2


actions = st.lists(
    st.one_of(
        st.tuples(st.just("head"), st.integers(1, 4), st.integers(0, frames.MAX_PAYLOAD)),
        st.tuples(st.just("body"), st.integers(1, 4), st.integers(0, 2 * STREAM_ROOM)),
        st.tuples(st.just("control"), st.just(0), st.integers(0, 600)),
        st.tuples(st.just("take"), st.just(0), st.integers(1, 5)),
        st.tuples(st.just("bundles"), st.just(0), st.integers(0, 1)),
    ),
    max_size=40,
)


@given(actions)
def test_whatever_is_queued_all_of_it_leaves_in_order_in_messages_that_fit(taken: list[tuple[str, int, int]]) -> None:
    outbox, out = Outbox(), list[Frame]()
    queued: dict[int, bytes] = {}
    for number, (action, stream, size) in enumerate(taken):
        fill = bytes([number % 256])
        match action:
            case "head":
                head(outbox, stream, fill * size)
                queued[stream] = queued.get(stream, b"") + fill * size
            case "body":
                size = body(outbox, stream, fill * size)
                queued[stream] = queued.get(stream, b"") + fill * size
            case "control":
                outbox.add_control(frames.encode(FrameType.RESET, 0, fill * size))
                queued[0] = queued.get(0, b"") + fill * size
            case "take":
                out += checked(messages(outbox, size))
            case "bundles":
                outbox.bundles = bool(size)
    out += checked(messages(outbox))
    assert not outbox
    for stream, data in queued.items():
        assert b"".join(frame.payload for frame in out if frame.stream == stream) == data


def checked(taken: list[bytes]) -> list[Frame]:
    assert all(0 < len(message) <= frames.MAX_MESSAGE for message in taken)
    opened = frames_of(taken)
    assert all(len(frame.payload) <= QUANTUM for frame in opened if frame.type == FrameType.RES_BODY)
    return opened


def test_many_streams_that_wait_have_less_room_each_and_any_has_room_for_a_piece() -> None:
    outbox = Outbox()
    waiting = 0
    for stream in range(1, 1000):
        size = body(outbox, stream, bytes(10 * STREAM_ROOM))
        assert size in (STREAM_ROOM, QUANTUM)
        waiting += size
        assert waiting <= SHARED_ROOM + stream * QUANTUM
    assert body(outbox, 1000, bytes(STREAM_ROOM)) == QUANTUM
    assert waiting < SHARED_ROOM + 1000 * QUANTUM
    while waiting > SHARED_ROOM // 2:
        waiting -= sum(len(frame.payload) for frame in frames_of(messages(outbox, 100)))
    assert outbox.room(1001) == STREAM_ROOM
    for stream in range(1, 1001):
        outbox.drop(stream)
    assert outbox._size == 0 and not outbox


def test_streams_that_a_full_lane_holds_back_keep_their_order() -> None:
    """The peer takes a head for that of a stream that has ended, if a later one of its lane has come before."""
    journals = journals_of(2 * MAX_MESSAGE, 2)
    while not journals[1].full:
        journals[1].add(bytes(QUANTUM))
    outbox = Outbox(journals=journals)
    for stream in (1, 2, 3, 4, 5):
        head(outbox, stream)
    assert [frame.stream for frame in frames_of(messages(outbox))] == [2, 4]
    journals[1].acknowledge(journals[1].sent)
    assert [frame.stream for frame in frames_of(messages(outbox))] == [1, 3, 5]
