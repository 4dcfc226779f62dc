"""The SCTP core against itself, over a network that loses, repeats, delays and cuts; and against a hostile peer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtunnel.transport.sctp import association as sctp
from llmtunnel.transport.sctp import packet
from llmtunnel.transport.sctp.association import PACKET, WINDOW, WINDOW_FIRST, Association, State, StreamReset
from llmtunnel.transport.sctp.congestion import Bbr, NewReno
from llmtunnel.transport.sctp.inbound import Inbound, Message, _Stream
from llmtunnel.transport.sctp.outbound import WINDOW_MOST, Outbound
from llmtunnel.transport.sctp.packet import FIRST, LAST, Init, Malformed, Sack
from llmtunnel.transport.sctp.pmtu import BROWSER, RAISE
from llmtunnel.transport.sctp.turns import Queued, Turns

from ..support.cubic import Cubic
from ..support.lossy_network import Network, Side, Wire

BINARY = 53


Extensions = dict[str, bool]

ALL: Extensions = {"zero_checksum": True, "interleaving": True}
EACH: list[Extensions] = [
    {"zero_checksum": zero, "interleaving": inter} for zero in (True, False) for inter in (True, False)
]
"""What an association may be made to do without: an earlier version, or another implementation, has neither."""


def network(
    *,
    seed: int = 1,
    refill: object = None,
    congestion: object = Bbr,
    busy: object = None,
    has: tuple[Extensions, Extensions] = (ALL, ALL),
    **wire: object,
) -> Network:
    """``has``: what the left side and the right side have."""
    rng = Random(seed)
    left, right = Wire(rng=rng, **wire), Wire(rng=rng, **wire)  # type: ignore[arg-type]
    more = {name: given for name, given in (("refill", refill), ("busy", busy)) if given}
    each = iter(has)
    return Network(left, right, make=lambda: Association(congestion=congestion, **next(each)), **more)  # type: ignore[arg-type]


def standing(**wire: object) -> Network:
    """Both are connected, and let each other in."""
    net = network(**wire)
    net.run(lambda: both(net, State.ESTABLISHED), seconds=30)
    net.left.association.trust()
    net.right.association.trust()
    return net


def both(net: Network, state: State) -> bool:
    return net.left.association.state is net.right.association.state is state


def bulk(side: Side, now: float) -> None:
    """Keep its queue full."""
    while side.association.queued < 65_536:
        side.association.send(1, BINARY, bytes(16_384))


def received(side: Side) -> int:
    return sum(len(message.data) for message in side.messages)


# -- what holds of every network


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.01, 0.1, 0.3]),
    twice=st.sampled_from([0.0, 0.1]),
    late=st.sampled_from([0.0, 0.02, 0.3]),
    delay=st.sampled_from([0.0001, 0.03, 0.3]),
    rate=st.sampled_from([20e3, 1e6, 50e6]),
    congestion=st.sampled_from([Bbr, NewReno]),
    has=st.tuples(st.sampled_from(EACH), st.sampled_from(EACH)),
    sizes=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 500, 1160, 1161, 5000, 65_536])), max_size=20),
)
def test_every_message_arrives_once_whole_and_in_its_streams_order(
    seed: int,
    loss: float,
    twice: float,
    late: float,
    delay: float,
    rate: float,
    congestion: object,
    has: tuple[Extensions, Extensions],
    sizes: list[tuple[int, int]],
) -> None:
    net = network(seed=seed, loss=loss, twice=twice, late=late, delay=delay, rate=rate, congestion=congestion, has=has)
    rng = Random(seed)
    sent = [Message(stream, BINARY, rng.randbytes(size)) for stream, size in sizes]
    for side in (net.left, net.right):
        side.association.trust()
        for message in sent:
            side.association.send(*message)
    net.run(lambda: both(net, State.ESTABLISHED), seconds=60)
    net.run(lambda: len(net.left.messages) == len(net.right.messages) == len(sent), seconds=600)
    net.run(lambda: all(side.association.next_timer() is None for side in (net.left, net.right)), seconds=60)
    for side in (net.left, net.right):
        for stream in range(4):
            assert [each for each in side.messages if each.stream == stream] == [
                each for each in sent if each.stream == stream
            ]
        assert side.ended is None


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.2]), begin_both=st.booleans())
def test_a_handshake_comes_through_whoever_begins(seed: int, loss: float, begin_both: bool) -> None:
    net = network(seed=seed, loss=loss)
    if begin_both:
        net.right.association.begin(0.0)
    net.run(lambda: both(net, State.ESTABLISHED), seconds=60)
    for side, other in ((net.left, net.right), (net.right, net.left)):
        side.association.send(0, BINARY, b"hello")
        net.run(lambda other=other: len(other.messages) == 1, seconds=60)  # type: ignore[misc]


def test_small_packets_share_an_acknowledgement_and_full_ones_wait_for_one_more_at_most() -> None:
    net = standing(delay=0.0001)
    net.pass_time(1)
    sent = net.right.packets
    for _ in range(20):
        net.left.association.send(1, BINARY, bytes(100))
        net.pass_time(0.0005)
    assert 1 <= net.right.packets - sent <= 2  # the sender asks for one where a packet's worth is in flight
    net.pass_time(0.03)
    assert net.left.association.idle
    sent = net.right.packets
    for number in range(10):
        net.left.association.send(1, BINARY, bytes(1160))
        net.pass_time(0.0005)
        assert net.right.packets - sent >= (number + 1) // 2


def test_a_message_waits_for_no_other_stream() -> None:
    net = standing()
    lost = [False]

    def first_only(now: float) -> bool:
        lost[0], before = True, lost[0]
        return not before

    net.left.wire.cut = first_only
    for stream in (1, 2):
        net.left.association.send(stream, BINARY, bytes(1100))
    net.run(lambda: len(net.right.messages) == 1, seconds=0.05)
    assert net.right.messages[0].stream == 2
    net.run(lambda: len(net.right.messages) == 2, seconds=1)


# -- streams in turn


def go_out(turns: Turns) -> Queued:
    message = turns.next
    turns.take(len(message.data) - message.sent)
    return message


def test_a_short_message_goes_out_after_the_one_that_is_under_way() -> None:
    turns = Turns()
    for number in range(20):
        turns.add(Queued(1, number, BINARY, bytes(16_384)))
    for _ in range(10):
        go_out(turns)
    under_way = turns.next
    turns.take(1100)
    turns.add(Queued(2, 0, BINARY, bytes(100)))
    turns.add(Queued(2, 1, BINARY, bytes(100)))
    assert go_out(turns) is under_way
    assert [go_out(turns).stream for _ in range(3)] == [2, 2, 1]


def test_a_message_of_which_nothing_was_sent_is_overtaken() -> None:
    turns = Turns()
    turns.add(Queued(1, 0, BINARY, bytes(16_384)))
    turns.add(Queued(1, 1, BINARY, bytes(16_384)))
    go_out(turns)
    assert turns.next.stream == 1
    turns.add(Queued(2, 0, BINARY, bytes(100)))
    assert turns.next.stream == 2


def test_a_stream_that_was_silent_has_saved_up_no_turns() -> None:
    turns = Turns()
    for number in range(100):
        turns.add(Queued(1, number, BINARY, bytes(1000)))
    for _ in range(50):
        go_out(turns)
    for number in range(50):
        turns.add(Queued(2, number, BINARY, bytes(1000)))
    assert [go_out(turns).stream for _ in range(20)].count(1) == 10


def test_where_streams_interleave_a_short_message_overtakes_the_one_that_is_under_way() -> None:
    turns = Turns(interleave=True)
    turns.add(Queued(1, 0, BINARY, bytes(65_536)))
    turns.take(1100)
    turns.add(Queued(2, 0, BINARY, bytes(100)))
    assert go_out(turns).stream == 2
    assert turns.next.stream == 1
    assert turns.next.sent == 1100


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 65_536)), max_size=60))
def test_where_streams_interleave_none_gets_more_than_one_fragment_beyond_another(
    messages: list[tuple[int, int]],
) -> None:
    turns = Turns(interleave=True)
    queued = [Queued(stream, number, BINARY, bytes(size)) for number, (stream, size) in enumerate(messages)]
    for message in queued:
        turns.add(message)
    waiting, gone = Counter[int](), Counter[int]()
    for message in queued:
        waiting[message.stream] += len(message.data)
    ended: list[Queued] = []
    while turns:
        message = turns.next
        size = min(1100, len(message.data) - message.sent)
        turns.take(size)
        if message.sent == len(message.data):
            ended.append(message)
        waiting[message.stream] -= size
        gone[message.stream] += size
        served = [gone[stream] for stream in waiting if waiting[stream]]
        assert not served or max(served) - min(served) <= 1100
    for stream in range(5):
        assert [each for each in ended if each.stream == stream] == [each for each in queued if each.stream == stream]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 65_536)), max_size=60), st.randoms())
def test_streams_keep_their_order_and_none_gets_more_than_one_message_beyond_another(
    messages: list[tuple[int, int]], rng: Random
) -> None:
    turns, out = Turns(), list[Queued]()
    queued = [Queued(stream, number, BINARY, bytes(size)) for number, (stream, size) in enumerate(messages)]
    for message in queued:
        turns.add(message)
    waiting, gone = Counter(each.stream for each in queued), Counter[int]()
    while turns:
        message = go_out(turns)
        out.append(message)
        waiting[message.stream] -= 1
        gone[message.stream] += len(message.data)
        served = [gone[stream] for stream in waiting if waiting[stream]]
        assert not served or max(served) - min(served) <= 65_536
    for stream in range(5):
        assert [each for each in out if each.stream == stream] == [each for each in queued if each.stream == stream]


def test_a_small_message_beside_bulk_on_another_stream_takes_no_longer_than_without() -> None:
    waits = []
    for stream in (1, 2):
        net = standing(delay=0.029, rate=5e6)
        for _ in range(60):
            net.left.association.send(1, BINARY, bytes(16_384))
        net.run(lambda net=net: len(net.right.messages) == 20, seconds=60)  # type: ignore[misc]
        sent_at = net.now
        net.left.association.send(stream, BINARY, b"small")
        net.run(lambda net=net: net.right.messages[-1].data == b"small", seconds=60)  # type: ignore[misc]
        waits.append(net.now - sent_at)
    beside, apart = waits
    assert apart < 0.06 < beside


@pytest.mark.parametrize("interleaving", [True, False])
def test_on_a_slow_path_a_small_message_waits_for_a_packet_of_another_stream_or_for_its_message(
    interleaving: bool,
) -> None:
    net = standing(delay=0.01, rate=125_000, has=(ALL, ALL | {"interleaving": interleaving}))
    net.left.association.send(1, BINARY, bytes(65_536))
    net.pass_time(0.15)
    net.left.association.send(2, BINARY, b"small")
    net.run(lambda: len(net.right.messages) == 2, seconds=5)
    assert [message.stream for message in net.right.messages] == ([2, 1] if interleaving else [1, 2])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), nth=st.integers(0, 39))
def test_a_lost_packet_delays_only_the_stream_whose_bytes_it_carried(seed: int, nth: int) -> None:
    net = standing(seed=seed, delay=0.03, rate=50e6)
    net.left.association.send(0, BINARY, bytes(65_536))
    net.left.association.send(0, BINARY, bytes(65_536))
    net.pass_time(2)
    packets = count()
    net.left.wire.cut = lambda now: next(packets) == nth
    for _ in range(10):
        for stream in range(1, 5):
            net.left.association.send(stream, BINARY, bytes(1100))
    net.pass_time(0.06)
    arrived = Counter(message.stream for message in net.right.messages)
    assert sorted(arrived[stream] for stream in range(1, 5)) == [nth // 4, 10, 10, 10]
    net.run(lambda: len(net.right.messages) == 42, seconds=1)


# -- speed, by what it depends on


@pytest.mark.parametrize("loss", [0.0, 0.005, 0.02])
def test_loss_that_is_no_congestion_leaves_most_of_the_paths_rate(loss: float) -> None:
    net = network(loss=loss, refill=lambda side, now: bulk(side, now) if side is net.left else None, rate=5e6)
    net.left.association.trust()
    net.right.association.trust()
    net.pass_time(4)
    before = received(net.right)
    net.pass_time(4)
    assert (received(net.right) - before) / 4 > 0.75 * 5e6 * (1 - loss)


def test_a_queue_that_overflowed_once_is_tried_again_also_where_packets_are_lost() -> None:
    net = network(
        loss=0.04, rate=1.5e6, queue=30_000, refill=lambda side, now: bulk(side, now) if side is net.left else None
    )
    net.right.association.trust()
    net.pass_time(4)
    bbr = net.left.association.congestion
    assert isinstance(bbr, Bbr) and bbr._ceiling < float("inf")  # the start has overflowed it
    for wire in (net.left.wire, net.right.wire):
        wire.rate, wire.queue = 3e6, 300_000
    net.pass_time(10)
    before = received(net.right)
    net.pass_time(3)
    assert (received(net.right) - before) / 3 > 0.7 * 3e6


@pytest.mark.parametrize(
    ("loss", "busy"),
    [(0.0, lambda rng: 0.01), (0.02, lambda rng: rng.expovariate(1 / 0.002))],
    ids=["evenly", "at times"],
)
def test_a_loop_that_does_other_things_leaves_most_of_the_paths_rate(loss: float, busy: object) -> None:
    """Its timers come late. What goes out slower for that says nothing of the path."""
    rng = Random(2)
    net = network(
        loss=loss,
        rate=5e6,
        busy=lambda: busy(rng),  # type: ignore[operator]
        refill=lambda side, now: bulk(side, now) if side is net.left else None,
    )
    net.right.association.trust()
    net.pass_time(6)
    before = received(net.right)
    net.pass_time(3)
    assert (received(net.right) - before) / 3 > 0.75 * 5e6 * (1 - loss)


def test_thin_traffic_says_nothing_of_the_paths_rate() -> None:
    """After a download, its client sends little for a while. An upload that follows starts at the rate known before."""
    full, last = True, 0.0

    def refill(side: Side, now: float) -> None:
        nonlocal last
        if side is net.left and full:
            bulk(side, now)
        elif side is net.left and now >= last + 0.03:  # at once when the last one is acknowledged
            side.association.send(1, BINARY, bytes(13))
            last = now

    net = network(loss=0.005, rate=5e6, queue=500_000, refill=refill)
    net.right.association.trust()
    net.pass_time(4)
    full = False
    net.pass_time(6)
    full = True
    before = received(net.right)
    net.pass_time(1.5)
    assert (received(net.right) - before) / 1.5 > 0.75 * 5e6


def test_the_reference_collapses_there() -> None:
    net = network(
        loss=0.02, rate=5e6, congestion=NewReno, refill=lambda side, now: bulk(side, now) if side is net.left else None
    )
    net.right.association.trust()
    net.pass_time(8)
    assert received(net.right) / 8 < 0.2 * 5e6


@pytest.mark.parametrize(("busy", "typical", "long"), [(0.0, 0.02, 0.05), (0.004, 0.11, 0.14)], ids=["idle", "busy"])
def test_a_bulk_transfer_keeps_a_deep_queue_short(busy: float, typical: float, long: float) -> None:
    """20 Mbit/s with 250 ms of queue, and a round trip of 60 ms. Each loop is ``busy`` for so long after a turn.

    Acknowledgements come in clumps from busy loops, and the rate is taken for a tenth more than it is. The window
    bounds the queue that follows from that.
    """
    rng = Random(5)
    net = network(
        rate=2.5e6,
        queue=625_000,
        busy=lambda: rng.expovariate(1 / busy) if busy else 0.0,
        refill=lambda side, now: bulk(side, now) if side is net.left else None,
    )
    net.right.association.trust()
    net.pass_time(5)
    before, waits = received(net.right), []
    for _ in range(100):
        net.pass_time(0.1)
        waits.append(max(0.0, net.left.wire._free - net.now))
    assert sorted(waits)[50] < typical
    assert sorted(waits)[95] < long
    assert (received(net.right) - before) / 10 > 0.85 * 2.5e6


@pytest.mark.parametrize("other", [Bbr, Cubic])
@pytest.mark.parametrize("is_first", [True, False])
def test_two_transfers_share_a_link_with_a_deep_queue(other: type[Bbr | Cubic], is_first: bool) -> None:
    transfers: list[Association] = []
    rng = Random(5)
    net = network(
        rate=2.5e6,
        queue=625_000,
        congestion=Bbr if is_first else other,
        busy=lambda: rng.expovariate(1 / 0.004),
        refill=lambda side, now: bulk(side, now) if side.association in transfers else None,
    )
    receivers = [net.right]
    transfers.append(net.left.association)
    net.pass_time(2)
    sender, receiver = net.join(
        lambda: Association(congestion=other if is_first else Bbr), net.left.wire, net.right.wire
    )
    transfers.append(sender.association)
    receivers.append(receiver)
    for each in receivers:
        each.association.trust()
    net.pass_time(5)
    before = [received(each) for each in receivers]
    net.pass_time(20)
    moved = [received(each) - earlier for each, earlier in zip(receivers, before, strict=True)]
    assert min(moved) > 0.25 * sum(moved)
    assert sum(moved) / 20 > 0.8 * 2.5e6


def test_reordering_does_not_slow_a_transfer_down() -> None:
    net = network(rate=2.5e6, late=0.01, refill=lambda side, now: bulk(side, now) if side is net.left else None)
    net.right.association.trust()
    net.pass_time(3)
    before = received(net.right)
    net.pass_time(4)
    assert (received(net.right) - before) / 4 > 0.75 * 2.5e6


@pytest.mark.parametrize("seconds", [0.4, 1.5])
def test_a_spike_of_the_delay_costs_few_packets_and_no_speed(seconds: float) -> None:
    """All is in flight, and nothing is lost. The timeouts meanwhile were in vain."""
    net = network(rate=2.5e6, refill=lambda side, now: bulk(side, now) if side is net.left else None)
    net.right.association.trust()
    net.pass_time(4)
    net.left.wire.held_until = net.right.wire.held_until = net.now + seconds
    net.pass_time(seconds)
    sent = net.left.packets
    before = received(net.right)
    net.pass_time(2)
    new = received(net.right) - before
    assert new / 2 > 0.85 * 2.5e6
    assert net.left.packets - sent < 1.1 * new / 1100  # nearly nothing was sent again


def test_a_lost_packet_in_the_middle_is_sent_again_within_two_round_trips() -> None:
    net = standing()
    sizes = iter([False, True, False, False])
    net.left.wire.cut = lambda now: next(sizes, False)
    began = net.now
    net.left.association.send(1, BINARY, bytes(4 * 1100))
    net.run(lambda: len(net.right.messages) == 1, seconds=1)
    assert net.now - began < 2.5 * 0.06


def test_a_lost_last_packet_costs_a_probe_and_no_timeout() -> None:
    net = standing()
    for _ in range(10):
        net.left.association.send(1, BINARY, b"x")
        net.pass_time(0.2)
    lost = iter([True])
    net.left.wire.cut = lambda now: next(lost, False)
    began = net.now
    net.left.association.send(1, BINARY, b"last")
    net.run(lambda: len(net.right.messages) == 11, seconds=1)
    assert net.now - began < 0.29  # the retransmission timeout is 0.3 s


def test_after_a_cut_data_flows_within_a_second_or_so() -> None:
    net = network(refill=lambda side, now: bulk(side, now) if side is net.left else None, rate=2e6)
    net.right.association.trust()
    net.pass_time(2)
    net.left.wire.cut = net.right.wire.cut = lambda now: now < 12
    net.pass_time(10.5)
    before = received(net.right)
    net.pass_time(1.5)
    assert received(net.right) > before
    net.pass_time(5)
    assert received(net.right) - before > 2e6 * 0.6 * 5


# -- what two of them agree on (RFC 8260, RFC 9653)


def watch(side: Side) -> list[bytes]:
    """The packets that a side sends from now on, as a list that grows."""
    sent: list[bytes] = []
    take = side.association.packet_to_send

    def packet_to_send(now: float) -> bytes | None:
        if (packed := take(now)) is not None:
            sent.append(packed)
        return packed

    side.association.packet_to_send = packet_to_send  # type: ignore[method-assign]
    return sent


@pytest.mark.parametrize("left", EACH)
@pytest.mark.parametrize("right", EACH)
def test_an_extension_is_used_where_both_have_it_and_nowhere_else(left: Extensions, right: Extensions) -> None:
    net = network(has=(left, right), loss=0.02, seed=4)
    sent = [watch(net.left), watch(net.right)]
    first = net.left.association._handshake
    assert first is not None
    sent[0].append(packet.seal(0, [first.chunk]))
    for side in (net.left, net.right):
        for stream in (1, 2):
            side.association.send(stream, BINARY, bytes(20_000))
    net.run(lambda: len(net.left.messages) == len(net.right.messages) == 2, seconds=30)
    both_have = {name: left[name] and right[name] for name in ALL}
    for packed in [*sent[0], *sent[1]]:
        types = {chunk.type for chunk in packet.parse(packed)[1]}
        sets_up = types & {packet.INIT, packet.COOKIE_ECHO}
        # An INIT ACK already has none, since the INIT has said that its sender needs none.
        if types != {packet.INIT_ACK}:
            assert (packed[8:12] == bytes(4)) == (both_have["zero_checksum"] and not sets_up)
        assert (packet.DATA if both_have["interleaving"] else packet.I_DATA) not in types


def test_i_data_is_announced_as_firefox_wants_it() -> None:
    """Its SCTP takes I-DATA for supported only together with I-FORWARD-TSN."""
    for interleaving in (True, False):
        side = network(has=(ALL | {"interleaving": interleaving}, ALL)).left
        assert side.association._handshake is not None
        [init] = packet.parse(packet.seal(0, [side.association._handshake.chunk]))[1]
        listed = packet.decode_init(init.body).parameters[packet.SUPPORTED_EXTENSIONS]
        assert (packet.I_DATA in listed) == (packet.I_FORWARD_TSN in listed) == interleaving


@pytest.mark.parametrize("type_", [packet.INIT, packet.COOKIE_ECHO])
def test_a_packet_that_sets_up_an_association_needs_its_checksum(type_: int) -> None:
    chunk = packet.chunk(type_, bytes(16))
    assert packet.parse(packet.seal(1, [chunk]))[0] == 1
    with pytest.raises(Malformed, match="checksum"):
        packet.parse(packet.seal(1, [chunk], has_checksum=False))


@pytest.mark.parametrize("interleaving", [True, False])
def test_the_numbers_of_messages_begin_again_after_their_last_one(interleaving: bool) -> None:
    net = standing(has=(ALL | {"interleaving": interleaving}, ALL))
    last = 2**32 - 1 if interleaving else 2**16 - 1
    outbound_of(net.left)._sequences[1] = last
    inbound_of(net.right)._streams[1] = _Stream(next=last)
    sent = [bytes([number]) * 3000 for number in range(4)]
    for message in sent:
        net.left.association.send(1, BINARY, message)
    net.run(lambda: len(net.right.messages) == 4, seconds=1)
    assert [message.data for message in net.right.messages] == sent


# -- bounds, and a hostile peer


@pytest.fixture(params=[True, False], ids=["I-DATA", "DATA"])
def interleaved(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def only(interleaved: bool) -> tuple[Extensions, Extensions]:
    """What both sides have for that kind of chunk."""
    return ALL, ALL | {"interleaving": interleaved}


def data(
    tsn: int,
    payload: bytes,
    *,
    flags: int = FIRST | LAST,
    stream: int = 1,
    sequence: int = 0,
    number: int = 0,
    interleaved: bool = True,
) -> bytes:
    """An I-DATA chunk or a DATA chunk; ``number``: which fragment of its message it is."""
    tsn &= 0xFFFFFFFF
    if interleaved:
        last = BINARY if flags & FIRST else number
        header = packet.I_DATA_HEADER.pack(64, flags, 20 + len(payload), tsn, stream, 0, sequence, last)
    else:
        header = packet.DATA_HEADER.pack(0, flags, 16 + len(payload), tsn, stream, sequence, BINARY)
    return header + payload + bytes(-len(payload) & 3)


def sealed(to: Association, chunks: Iterable[bytes], *, wrong: int = 0) -> bytes:
    """A packet that poses as the peer's; ``wrong``: what is so of its tag, as a stranger's is."""
    return packet.seal(to._tag ^ wrong, chunks)


def outbound_of(side: Side) -> Outbound:
    """What it sends, once it is connected."""
    outbound = side.association._outbound
    assert outbound is not None
    return outbound


def inbound_of(side: Side) -> Inbound:
    """What it receives, once it is connected."""
    inbound = side.association._inbound
    assert inbound is not None
    return inbound


def to_left(net: Network, *chunks: bytes) -> None:
    """Have the left side receive what poses as the right side's."""
    net.inject(net.left, sealed(net.left.association, chunks))


def next_tsn(net: Network) -> int:
    return inbound_of(net.left).cumulative + 1


def held(side: Side) -> int:
    return inbound_of(side)._held


def breaks(net: Network) -> None:
    assert net.left.ended is not None and net.left.ended.startswith("the peer broke SCTP: ")
    assert net.left.association.state is State.ENDED
    net.run(lambda: net.right.ended is not None, seconds=1)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("messages", [1, 200])
def test_fragments_that_never_become_messages_fill_a_bound_and_then_end_it(
    trusted: bool, messages: int, interleaved: bool
) -> None:
    net = network(has=only(interleaved))
    net.run(lambda: both(net, State.ESTABLISHED), seconds=1)
    if trusted:
        net.left.association.trust()
    window = WINDOW if trusted else WINDOW_FIRST
    net.left.wire.queue = float("inf")  # of its many acknowledgements
    first = next_tsn(net)
    for number in range(3 * window // 1000):
        part, message = divmod(number, messages)
        flags = 0 if part else FIRST
        chunk = data(first + number, bytes(1000), flags=flags, stream=message, number=part, interleaved=interleaved)
        to_left(net, chunk)
        assert held(net.left) <= 2 * window + 2000
        if net.left.ended:
            break
    breaks(net)


def test_packets_beyond_a_gap_fill_the_window_and_no_more(interleaved: bool) -> None:
    net = network(has=only(interleaved))
    net.run(lambda: both(net, State.ESTABLISHED), seconds=1)
    first = next_tsn(net)
    for number in range(1000):
        to_left(net, data(first + 1 + number, bytes(1000), sequence=1 + number, interleaved=interleaved))
    assert WINDOW_FIRST - 2000 < held(net.left) <= WINDOW_FIRST
    to_left(net, data(first, b"x", interleaved=interleaved))
    net.pass_time(0.01)
    assert held(net.left) == 0
    assert len(net.left.messages) > 100


@pytest.mark.parametrize(
    ("interleaved", "chunks"),
    [
        *(
            each
            for kind in (True, False)
            for each in [
                (kind, lambda tsn, **to: [data(tsn, b"x", stream=256, **to)]),
                (kind, lambda tsn, **to: [data(tsn, b"", **to)]),
                (kind, lambda tsn, **to: [data(tsn, b"x", **to), data(tsn + 1, b"x", **to)]),
                (kind, lambda tsn, **to: [data(tsn, b"x", flags=FIRST, **to), data(tsn + 1, b"x", **to)]),
                (kind, lambda tsn, **to: [packet.chunk(packet.SACK, bytes(8))]),
                (kind, lambda tsn, **to: [packet.chunk(64 if to["interleaved"] else 0, bytes(8))]),
                (kind, lambda tsn, **to: [packet.chunk(packet.RE_CONFIG, b"\0\x0d\xff\xff")]),
                (kind, lambda tsn, **to: [data(tsn, b"x", interleaved=not to["interleaved"])]),
            ]
        ),
        (
            False,
            lambda tsn, **to: [
                data(tsn, b"x", flags=FIRST, **to),
                data(tsn + 2, b"y", flags=LAST, **to),
                data(tsn + 1, b"z", sequence=9, flags=0, **to),
                data(tsn + 3, b"y", flags=0, **to),
            ],
        ),
        (True, lambda tsn, **to: [data(tsn + after, b"x", flags=FIRST) for after in (0, 1)]),
        (True, lambda tsn, **to: [data(tsn + after, b"x", flags=0, number=7) for after in (0, 1)]),
        (
            True,
            lambda tsn, **to: [
                data(tsn, b"x", flags=0, number=9),
                data(tsn + 1, b"y", flags=0, number=10),
                data(tsn + 2, b"z", flags=LAST, number=2),
                data(tsn + 3, b"w", flags=FIRST),
            ],
        ),
    ],
)
def test_what_breaks_the_protocol_ends_the_association_and_is_told(interleaved: bool, chunks: object) -> None:
    net = standing(has=only(interleaved))
    to_left(net, *chunks(next_tsn(net), interleaved=interleaved))  # type: ignore[operator]
    breaks(net)


def test_a_handshake_that_comes_again_is_of_no_interest() -> None:
    net = standing()
    to_left(net, packet.chunk(packet.INIT_ACK, bytes(3)))
    to_left(net, packet.encode_init(packet.INIT_ACK, Init(1, 1000, 1, 1, 5, {packet.COOKIE: b"x"})))
    assert net.left.ended is None


def test_an_acknowledgement_of_what_was_not_sent_ends_it() -> None:
    net = standing()
    last = outbound_of(net.left).last_tsn
    to_left(net, packet.encode_sack(Sack(last, 1000, [(1, 65_535)] * 280, [])))
    breaks(net)


def test_a_peer_that_takes_nothing_is_asked_with_one_packet_at_a_time() -> None:
    net = standing()
    net.left.association.send(1, BINARY, b"x")
    net.pass_time(0.2)
    outbound = outbound_of(net.left)
    outbound._window = 0
    for _ in range(20):
        net.left.association.send(1, BINARY, bytes(1000))
    net.right.wire.cut = lambda now: True
    before = net.left.packets
    net.pass_time(3)
    assert 2 <= net.left.packets - before <= 12
    assert net.left.association.queued >= 19_000


def test_an_acknowledgement_that_names_the_same_blocks_again_and_again_costs_no_more() -> None:
    net = standing()
    association, outbound = net.left.association, outbound_of(net.left)
    outbound.congestion.window = outbound._window = 1 << 40
    outbound.congestion.rate = float("inf")
    before = outbound.last_tsn
    association.send(1, BINARY, bytes(10 << 20))
    while association.packet_to_send(net.now) is not None:
        pass
    looked = CountingDict(outbound._sent)
    outbound._sent = looked
    to_left(net, packet.encode_sack(Sack(before, 1 << 20, [(2, 9000 - number) for number in range(280)], [])))
    assert net.left.ended is None
    assert 8000 < looked.gets < 10_000


class CountingDict(dict[int, object]):
    gets = 0

    def get(self, *args: object) -> object:  # type: ignore[override]
        self.gets += 1
        return super().get(*args)  # type: ignore[call-overload]


def test_what_a_peer_acknowledges_only_to_have_more_kept_is_bounded() -> None:
    net = standing()
    association, outbound = net.left.association, outbound_of(net.left)
    outbound.congestion.window = 1 << 40
    to_left(net, packet.encode_sack(Sack(outbound.last_tsn, 0xFFFFFFFF, [], [])))
    net.left.wire.cut = lambda now: True
    outbound.congestion.rate = float("inf")
    for _ in range(20):
        association.send(1, BINARY, bytes(1 << 20))
    while association.packet_to_send(net.now) is not None:
        pass
    assert 15 << 20 < outbound._outstanding <= WINDOW_MOST


def test_forged_and_damaged_packets_count_for_nothing() -> None:
    net = standing()
    good = sealed(net.left.association, [data(next_tsn(net), b"x")])
    for bad in (good[:-1], good[:20], b"", bytes(11), good[:12] + bytes([good[12] ^ 1]) + good[13:]):
        net.inject(net.left, bad)
    net.inject(net.left, sealed(net.left.association, [packet.chunk(packet.ABORT)], wrong=1))
    assert net.left.ended is None and not net.left.messages
    net.inject(net.left, good)
    assert len(net.left.messages) == 1


def test_packets_go_to_the_port_that_the_peer_has_named() -> None:
    client = Association(port=5005)
    client.begin(0.0)
    sent = client.packet_to_send(0.0)
    assert sent is not None
    assert (int.from_bytes(sent[:2]), int.from_bytes(sent[2:4])) == (5000, 5005)


def test_a_cookie_that_we_did_not_make_opens_nothing() -> None:
    server = Association()
    forged = sealed(server, [packet.chunk(packet.COOKIE_ECHO, bytes(45))])
    assert server.receive_packet(forged, 0.0) == []
    assert server.state is State.CLOSED
    assert server.packet_to_send(0.0) is None


def test_an_init_is_answered_each_time_and_nothing_is_kept() -> None:
    server = Association()
    for number in range(1, 100):
        init = packet.encode_init(packet.INIT, Init(number, 1000, 1, 1, 5, {}))
        server.receive_packet(packet.seal(0, [init]), 0.0)
        answer = server.packet_to_send(0.0)
        assert answer is not None and answer[12] == packet.INIT_ACK
    assert server.state is State.CLOSED and server._inbound is None
    assert server.next_timer() is None


def test_where_nobody_answers_it_ends() -> None:
    net = network(loss=1.0)
    net.run(lambda: net.left.ended is not None, seconds=60)
    assert net.left.ended == "the peer does not answer"
    assert net.left.packets <= sctp._INITS + 1


# -- the end of a stream, and of it all


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_a_stream_ends_behind_what_was_sent_on_it_and_begins_anew(loss: float) -> None:
    net = standing(loss=loss)
    left, right = net.left.association, net.right.association
    left.send(1, BINARY, bytes(100_000))
    left.reset_stream(1, net.now)
    net.run(lambda: StreamReset(1) in net.right.events, seconds=60)
    assert [len(message.data) for message in net.right.messages] == [100_000]
    net.run(lambda: left._reset is None, seconds=60)
    left.send(1, BINARY, b"anew")
    right.send(1, BINARY, b"the other way is open")
    net.run(lambda: net.right.messages[-1].data == b"anew" and len(net.left.messages) == 1, seconds=60)


def test_an_abort_is_told_and_nothing_goes_out_after_it() -> None:
    net = standing()
    net.left.association.send(1, BINARY, bytes(100_000))
    net.left.association.abort()
    net.run(lambda: net.right.ended == "the peer ended it", seconds=1)
    assert net.left.association.next_timer() is None
    assert net.left.association.packet_to_send(net.now) is None


def test_no_packet_is_longer_than_the_least_mtu_lets_pass() -> None:
    net = standing()
    for size in (1, 1100, 1157, 1158, 1159, 1160, 1161, 65_536):
        net.left.association.send(1, BINARY, bytes(size))
    while (sent := net.left.association.packet_to_send(net.now)) is not None:
        assert len(sent) <= PACKET


def test_a_flood_of_heartbeats_is_answered_in_packets_of_the_usual_length() -> None:
    net = standing()
    for _ in range(50):
        packed = sealed(net.left.association, [packet.chunk(packet.HEARTBEAT, bytes(1000))])
        net.left.association.receive_packet(packed, net.now)
    answers = []
    while (sent := net.left.association.packet_to_send(net.now)) is not None:
        answers.append(sent)
        assert len(sent) <= PACKET
    assert 20 < len(answers) <= 50


def test_many_gaps_and_duplicates_leave_an_acknowledgement_its_length() -> None:
    net = standing()
    first = next_tsn(net)
    for number in range(0, 1000, 2):
        for _ in range(2):
            chunk = data(first + 2 + number, b"x", sequence=1 + number // 2)
            net.left.association.receive_packet(sealed(net.left.association, [chunk]), net.now)
    sack = net.left.association.packet_to_send(net.now)
    assert sack is not None and 1000 < len(sack) <= PACKET


# -- the codec


@given(st.binary(max_size=100))
def test_a_packet_is_parsed_or_refused(raw: bytes) -> None:
    try:
        tag, chunks = packet.parse(packet.seal(7, [raw]))
    except Malformed:
        return
    assert tag == 7 and chunks


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(1, 65_535), st.integers(1, 65_535)), max_size=20),
    st.lists(st.integers(0, 2**32 - 1), max_size=5),
)
def test_a_sack_comes_back_as_it_was(tsn: int, window: int, gaps: list[tuple[int, int]], duplicates: list[int]) -> None:
    sack = Sack(tsn, window, gaps, duplicates)
    _, [chunk] = packet.parse(packet.seal(1, [packet.encode_sack(sack)]))
    assert packet.decode_sack(chunk.body) == sack


@given(st.dictionaries(st.integers(0, 65_535), st.binary(max_size=30), max_size=5))
def test_parameters_come_back_as_they_were(parameters: dict[int, bytes]) -> None:
    assert dict(packet.decode_parameters(packet.encode_parameters(parameters.items()))) == parameters


def test_a_packet_of_aiortc_is_one_of_ours() -> None:
    from aiortc import rtcsctptransport as theirs

    chunk = theirs.DataChunk(flags=3)
    chunk.tsn, chunk.stream_id, chunk.stream_seq, chunk.protocol, chunk.user_data = 5, 1, 7, 53, b"hello"
    raw = theirs.serialize_packet(5000, 5000, 99, chunk)
    assert raw == packet.seal(99, [data(5, b"hello", sequence=7, interleaved=False)])


# -- how long a packet may be


def probing(net: Network, *, page: bool = False) -> None:
    for side in (net.left, net.right):
        side.association.trust()
        side.association.probe_path(net.now, page=page)


@pytest.mark.parametrize(
    ("mtu", "found"), [(1188, PACKET), (1407, PACKET), (1500, 1408), (2000, 1952), (9000, 8912), (65_536, 16_352)]
)
@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_probes_find_the_longest_packet_that_passes(mtu: int, found: int, loss: float) -> None:
    net = standing(mtu=mtu, loss=loss)
    probing(net)
    net.pass_time(10)
    assert net.left.association.packet_size == net.right.association.packet_size == found
    again = net.left.association.next_timer()  # nothing is due before the path is probed again
    assert again is None if found == 16_352 else again is not None and again > RAISE
    for size in (1, 5000, 65_536):
        net.left.association.send(1, BINARY, bytes(size))
    net.run(lambda: len(net.right.messages) == 3, seconds=5)


@pytest.mark.parametrize(
    ("page", "mtu", "found"),
    [(False, 65_536, PACKET), (True, 1188, PACKET), (True, 1500, 1408), (True, 65_536, BROWSER)],
)
def test_another_peer_than_ours_is_sent_longer_packets_if_it_is_a_page(
    monkeypatch: pytest.MonkeyPatch, page: bool, mtu: int, found: int
) -> None:
    said = sctp._said
    monkeypatch.setattr(sctp, "_said", lambda init: said(init)._replace(takes=0))
    net = standing(mtu=mtu)
    probing(net, page=page)
    net.pass_time(10)
    assert net.left.association.packet_size == net.right.association.packet_size == found


@pytest.mark.parametrize(("ours", "acknowledgements"), [(False, 4), (True, 1)])
def test_a_batch_of_another_peer_is_acknowledged_by_every_second_packet(
    monkeypatch: pytest.MonkeyPatch, ours: bool, acknowledgements: int
) -> None:
    """libwebrtc sends four packets for an acknowledgement: one for eight packets would halve what is in flight."""
    said = sctp._said
    monkeypatch.setattr(sctp, "_said", lambda init: said(init)._replace(takes=16_384 if ours else 0))
    net = standing()
    net.right.association.send(1, BINARY, b"the next acknowledgement tells of the larger window")
    net.pass_time(1)
    association = net.left.association
    first = next_tsn(net)
    for number in range(8):
        flags = {0: FIRST, 7: LAST}.get(number, 0)
        piece = data(first + number, bytes(1100), flags=flags, stream=2, number=number)
        association.receive_packet(sealed(association, [piece]), net.now)
    answers = []
    while (answer := association.packet_to_send(net.now)) is not None:
        answers += [packet.decode_sack(chunk.body).tsn for chunk in packet.parse(answer)[1]]
    last = [1, 3, 5, 7][-acknowledgements:]
    assert answers == [(first + each) & 0xFFFFFFFF for each in last]


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_a_path_that_takes_less_than_it_did_loses_nothing(loss: float) -> None:
    net = network(loss=loss, rate=5e6)
    net.run(lambda: both(net, State.ESTABLISHED), seconds=5)
    probing(net)
    net.pass_time(5)
    assert net.left.association.packet_size == 16_352
    sent = [Random(number).randbytes(60_000) for number in range(100)]
    for message in sent:
        net.left.association.send(1, BINARY, message)
    net.pass_time(0.1)
    net.left.wire.mtu = net.right.wire.mtu = 1300
    net.run(lambda: len(net.right.messages) == len(sent), seconds=60)
    assert [message.data for message in net.right.messages] == sent
    assert net.left.association.packet_size == PACKET
    assert net.left.wire.pieces


def test_a_path_that_takes_longer_packets_again_is_found_out() -> None:
    net = standing(mtu=9000)
    probing(net)
    net.pass_time(5)
    net.left.wire.mtu = net.right.wire.mtu = 1300
    for _ in range(20):
        net.left.association.send(1, BINARY, bytes(60_000))
    net.run(lambda: len(net.right.messages) == 20, seconds=60)
    assert net.left.association.packet_size == PACKET
    net.pass_time(RAISE + 10)  # in vain: the path has not changed
    assert net.left.association.packet_size == PACKET
    assert not net.left.wire.pieces  # or a probe would arrive in pieces
    net.left.wire.mtu = net.right.wire.mtu = 9000
    net.pass_time(RAISE / 2)
    assert net.left.association.packet_size == PACKET
    net.pass_time(RAISE / 2 + 10)
    assert net.left.association.packet_size == 8912
    for _ in range(20):
        net.left.association.send(1, BINARY, bytes(60_000))
    net.run(lambda: len(net.right.messages) == 40, seconds=5)


def test_a_path_that_has_lost_all_probes_is_probed_again() -> None:
    net = standing(mtu=1300)
    probing(net)
    net.pass_time(60)
    net.left.wire.mtu = net.right.wire.mtu = 9000
    net.pass_time(RAISE)
    assert net.left.association.packet_size == net.right.association.packet_size == 8912


def test_an_acknowledged_probe_that_was_never_sent_counts_for_nothing() -> None:
    net = standing()
    net.left.association.probe_path(net.now)
    for said in (bytes(10), bytes(8) + (16_352).to_bytes(2), b""):
        body = packet.encode_parameters([(1, said)])
        to_left(net, packet.chunk(packet.HEARTBEAT_ACK, body))
    assert net.left.association.packet_size == PACKET


# -- thin traffic


def tokens(net: Network, *, count: int, every: float) -> list[float]:
    """Send small messages at this pace; how many seconds each takes to be delivered."""
    began = net.now
    first = len(net.right.messages)
    delays: list[float] = []

    def take() -> bool:
        while len(delays) < len(net.right.messages) - first:
            delays.append(net.now - (began + every * len(delays)))
        return len(delays) == count

    for number in range(count):
        net.now = began + every * number
        net.left.association.send(1, BINARY, bytes(150))
        end = began + every * (number + 1)
        net.send_all()
        while net.step(end):
            take()
    net.run(take, seconds=5)
    return delays


@pytest.mark.parametrize("every", [0.002, 0.033])
def test_a_lost_token_costs_milliseconds_where_losses_were_seen(every: float) -> None:
    net = standing(loss=0.02)
    tokens(net, count=400, every=every)  # some of these are lost, and from then on it is known that losses occur
    delays = sorted(tokens(net, count=2000, every=every))
    # One way, and a few milliseconds: no round trip. Where the copy is lost too, it is one.
    assert delays[int(0.95 * len(delays))] < 0.03 + 0.015


def test_without_losses_nothing_is_sent_twice() -> None:
    net = standing()
    before = net.left.packets
    tokens(net, count=300, every=0.033)
    assert net.left.packets - before == 300
    assert inbound_of(net.right)._duplicates == []


def test_copies_are_no_sign_of_reordering_and_end_when_losses_do() -> None:
    net = standing(loss=0.05)
    tokens(net, count=300, every=0.005)
    outbound = outbound_of(net.left)
    assert outbound._copied
    assert outbound._reorder == 0.25
    net.left.wire.loss = net.right.wire.loss = 0.0
    net.pass_time(61)
    before = net.left.packets
    tokens(net, count=300, every=0.033)
    assert net.left.packets - before == 300


def test_bulk_is_not_sent_twice() -> None:
    net = network(loss=0.01, rate=2e6, refill=lambda side, now: bulk(side, now) if side is net.left else None)
    net.right.association.trust()
    net.pass_time(5)
    outbound = outbound_of(net.left)
    assert not outbound._copied
    assert len(outbound._uncopied) <= 128  # what was sent is not kept for that
    held = sum(len(sent.chunk) for sent in outbound._sent.values())
    assert held < 2 * outbound._outstanding + 100_000
