from __future__ import annotations

import asyncio
import errno
import random
import re
import socket
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aioice.ice
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp

from llmtunnel.config import Timeouts
from llmtunnel.errors import ChannelClosed, ConnectFailed
from llmtunnel.paths import Path
from llmtunnel.signaling.messages import IceCandidate
from llmtunnel.transport import datachannel, udp, webrtc
from llmtunnel.transport.base import MAX_MESSAGE
from llmtunnel.transport.sctp import pmtu
from llmtunnel.transport.sctp.association import Association

from ..support.webrtc_ends import NO_SERVERS, End, candidates_of, connected, introduce, without_candidates

Run = Callable[..., Any]


async def greet(left: End, right: End) -> None:
    await left.send(b"from left")
    await right.send(b"from right")
    await left.until(lambda: left.messages == [b"from right"])
    await right.until(lambda: right.messages == [b"from left"])


async def close(*ends: End) -> None:
    for end in ends:
        await end.peer.aclose()


async def test_two_peers_meet_and_talk() -> None:
    left, right = await connected()
    await greet(left, right)
    assert left.channel.path is right.channel.path is Path.DIRECT
    await close(left, right)


@pytest.mark.parametrize("early", [True, False], ids=["before-the-sdp", "after-the-sdp"])
async def test_candidates_may_come_apart_from_the_sdp_and_before_it(early: bool) -> None:
    def give(end: End, sdp: str) -> None:
        for candidate in candidates_of(sdp):
            end.peer.add_candidate(candidate)

    left, right = End(), End()
    offer = await left.peer.offer()
    if early:
        give(right, offer)
    answer = await right.peer.answer(without_candidates(offer))
    if early:
        give(left, answer)
    await left.peer.accept(without_candidates(answer))
    if not early:
        give(right, offer)
        give(left, answer)
    await left.open()
    await right.open()
    await greet(left, right)
    await close(left, right)


async def test_candidates_that_come_twice_and_rubbish_do_no_harm() -> None:
    left, right = End(), End()
    offer = await left.peer.offer()
    answer = await right.peer.answer(offer)
    await left.peer.accept(answer)
    for text in ("rubbish", "candidate:1 1 udp 1 300.0.0.1 1 typ host", "candidate:" + "1 " * 1000, "", "\0"):
        right.peer.add_candidate(IceCandidate(candidate=text))
    for candidate in candidates_of(offer) * 50:
        right.peer.add_candidate(candidate)
    await left.open()
    await right.open()
    await greet(left, right)
    await close(left, right)


async def test_a_machine_with_no_address_of_its_own_uses_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda **_: [])
    left, right = End(), End()
    await introduce(left, right)
    assert {each.host for each in left.peer.agent.local_candidates} == {"127.0.0.1"}
    await left.open()
    await right.open()
    await greet(left, right)
    await close(left, right)


async def test_the_loopback_is_offered_where_asked() -> None:
    asked, not_asked = End(loopback=True), End()
    assert " 127.0.0.1 " in await asked.peer.offer()
    if aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=True):
        assert " 127.0.0.1 " not in await not_asked.peer.offer()
    await close(asked, not_asked)


@pytest.mark.usefixtures("an_address")
@pytest.mark.parametrize("offers", [True, False], ids=["it-answers", "it-offers"])
async def test_a_plain_aiortc_peer_is_met_in_both_roles(offers: bool) -> None:
    """It says as an original peer does: everything in the SDP, then each candidate once more."""

    end, other = End(), RTCPeerConnection(RTCConfiguration(iceServers=[]))
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    if offers:
        channel = None
        other.on("datachannel", lambda each: each.on("message", heard.put_nowait))
        await other.setRemoteDescription(RTCSessionDescription(await end.peer.offer(), "offer"))
        await other.setLocalDescription(await other.createAnswer())
        await end.peer.accept(other.localDescription.sdp)
    else:
        channel = other.createDataChannel("tunnel")
        channel.on("message", heard.put_nowait)
        channel.on("open", lambda: channel.send("text"))
        await other.setLocalDescription(await other.createOffer())
        answer = await end.peer.answer(other.localDescription.sdp)
        await other.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    for candidate in candidates_of(other.localDescription.sdp):
        end.peer.add_candidate(candidate)
    await end.open()
    await end.send(b"x" * MAX_MESSAGE)
    assert await heard.get() == b"x" * MAX_MESSAGE
    if channel is not None:
        await end.until(lambda: end.messages == [b"text"])
    await other.close()
    await end.until(lambda: bool(end.closed))
    await end.peer.aclose()


@pytest.mark.usefixtures("an_address")
async def test_our_trickled_candidates_are_what_a_plain_aiortc_peer_takes() -> None:
    end, other = End(), RTCPeerConnection(RTCConfiguration(iceServers=[]))
    offer = await end.peer.offer()
    await other.setRemoteDescription(RTCSessionDescription(without_candidates(offer), "offer"))
    await other.setLocalDescription(await other.createAnswer())
    await end.peer.accept(other.localDescription.sdp)
    for each in candidates_of(offer):
        candidate = candidate_from_sdp(each.candidate.removeprefix("candidate:"))
        candidate.sdpMid, candidate.sdpMLineIndex = each.sdp_mid, each.sdp_m_line_index
        await other.addIceCandidate(candidate)
    await end.open()
    await end.peer.aclose()
    await other.close()


async def test_an_unusable_offer_or_answer_is_refused_and_leaves_nothing() -> None:
    left, right = End(), End()
    with pytest.raises(ConnectFailed):
        await right.peer.answer("rubbish")
    offer = await left.peer.offer()
    for answer in ("", "v=0\r\n", offer):
        with pytest.raises(ConnectFailed):
            await left.peer.accept(answer)
    await close(left, right)


async def test_nobody_answers_and_the_time_is_over() -> None:
    left, right = End(timeouts=Timeouts(connect=0.2)), End()
    await left.peer.offer()
    with pytest.raises(ConnectFailed, match=r"0\.2 s"):
        await left.peer.channel()
    await close(left, right)


async def test_a_peer_that_shows_another_certificate_is_not_reached() -> None:
    left, right = End(), End()
    offer = await left.peer.offer()
    forged = re.sub(r"(a=fingerprint:\S+ )\S+", lambda line: line[1] + ":".join(["00"] * 32), offer)
    await left.peer.accept(await right.peer.answer(forged))
    with pytest.raises(ConnectFailed):
        await right.open()
    await close(left, right)


async def test_closing_while_connecting_ends_the_wait() -> None:
    left, right = End(), End()
    await left.peer.offer()
    waiting = asyncio.create_task(left.peer.channel())
    await asyncio.sleep(0)
    await left.peer.aclose()
    with pytest.raises(ConnectFailed, match="closed by us"):
        await waiting
    await left.peer.aclose()
    await right.peer.aclose()


async def test_an_orderly_close_comes_after_all_that_was_sent() -> None:
    left, right = await connected()
    sent = [bytes([number]) * 10_000 for number in range(100)]
    for message in sent:
        await left.send(message)
    await left.channel.aclose()
    await right.until(lambda: bool(right.closed))
    assert right.messages == sent
    assert right.closed == ["closed by the peer"]
    assert left.closed == ["closed by us"] or left.closed == ["closed by the peer"]
    assert not left.channel.has_room
    assert not right.channel.has_room
    for end in (left, right):
        with pytest.raises(ChannelClosed):
            end.channel.send(b"more")
    await right.channel.aclose()
    await left.channel.aclose()


async def test_a_peer_that_closes_at_once_is_heard_of() -> None:
    left, right = await connected()
    await right.peer.aclose()
    await left.until(lambda: bool(left.closed))
    assert len(left.closed) == len(right.closed) == 1
    await left.peer.aclose()


async def test_a_peer_that_is_silent_does_not_hold_a_close_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webrtc, "_DRAIN", 0.1)
    left, right = await connected()
    monkeypatch.setattr(right.peer.agent, "datagrams_received", lambda *_: None)
    await left.send(b"lost")
    await left.channel.aclose()
    await left.until(lambda: left.closed == ["closed by us"])
    assert not right.messages
    assert not right.closed
    await right.peer.aclose()


async def test_bulk_both_ways_arrives_whole_and_in_order_and_the_queue_stays_short() -> None:
    left, right = await connected()
    longest = 0

    async def bulk(end: End, messages: list[bytes]) -> None:
        nonlocal longest
        for message in messages:
            await end.send(message)
            longest = max(longest, end.channel.data._association.queued)  # type: ignore[attr-defined]

    data = random.Random(7).randbytes(MAX_MESSAGE)
    down = [data[: 1 + number * 997 % MAX_MESSAGE] for number in range(150)]
    up = [data[number % 100 :] for number in range(100)]
    await asyncio.gather(bulk(left, down), bulk(right, up))
    await right.until(lambda: len(right.messages) == len(down))
    await left.until(lambda: len(left.messages) == len(up))
    assert right.messages == down
    assert left.messages == up
    assert datachannel.QUEUE < longest < datachannel.QUEUE + 2 * MAX_MESSAGE
    await close(left, right)


@pytest.fixture(params=["batches", "a kernel without", "a device without", "a loop without readers"])
def socket_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the machine offers: what this one does, or that of an older Linux and macOS, or of Windows."""
    if request.param == "a kernel without":
        monkeypatch.setattr(udp, "_has_option", lambda *_, **__: False)
    elif request.param == "a device without":

        def refuse(*_: object) -> None:
            raise OSError(errno.EIO, "the device computes no checksums")

        monkeypatch.setattr(udp.socket, "socket", type("Socket", (socket.socket,), {"sendmsg": refuse}))
    elif request.param == "a loop without readers":

        def lack(*_: object) -> None:
            raise NotImplementedError

        monkeypatch.setattr(udp.UdpTransport, "__init__", lack)
    return str(request.param)


@pytest.mark.usefixtures("on_each_loop")
@pytest.mark.parametrize("packet", [pmtu.PACKET, pmtu.SIZES[-1]])
async def test_bulk_in_packets_of_any_size_arrives_on_each_kind_of_socket(
    monkeypatch: pytest.MonkeyPatch, socket_kind: str, packet: int
) -> None:
    monkeypatch.setattr(pmtu, "SIZES", tuple(size for size in pmtu.SIZES if size <= packet))
    left, right = await connected()
    data = random.Random(7).randbytes(MAX_MESSAGE)
    down = [data[number:] for number in range(12)]
    up = [data[: 1 + number * 4999 % MAX_MESSAGE] for number in range(12)]

    async def send(end: End, messages: list[bytes]) -> None:
        for message in messages:
            await end.send(message)

    await asyncio.gather(send(left, down), send(right, up))
    await right.until(lambda: len(right.messages) == len(down))
    await left.until(lambda: len(left.messages) == len(up))
    assert right.messages == down
    assert left.messages == up
    assert association_of(left).packet_size == association_of(right).packet_size == packet
    ours = isinstance(transport_of(left), udp.UdpTransport)
    assert ours is (socket_kind != "a loop without readers" and sys.platform != "win32")
    await close(left, right)


def association_of(end: End) -> Association:
    return end.channel.data._association  # type: ignore[attr-defined, no-any-return]


def transport_of(end: End) -> asyncio.DatagramTransport:
    return end.peer.agent._nominated[1].protocol.transport


async def test_records_of_one_size_are_sent_at_once_and_others_apart() -> None:
    left, right = await connected()
    sizes = [500, 500, 500, 300, 500, 40, 60, 60, 16_000]
    sent: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(left.peer.agent, "transmit", lambda records, size: sent.append((len(records), size)))
        left.peer._dtls.send([bytes(size) for size in sizes])
    [(_, whole), *_] = sent
    more = whole - 500
    rows = [[500, 500, 500, 300], [500, 40], [60, 60], [16_000]]
    assert sent == [(sum(row) + len(row) * more, row[0] + more) for row in rows]
    await close(left, right)


async def test_every_record_of_a_long_row_arrives_whatever_is_among_them() -> None:
    """OpenSSL reads 16.7 KB at once as one datagram, and loses the record that ends beyond that."""
    left, right = await connected()
    sent = [b"%02d" % number * 700 for number in range(40)]
    records: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(left.peer.agent, "transmit", lambda data, size: records.append(data))
        for each in sent:
            left.peer._dtls.send([each])
    size = len(records[0])
    forged = records[7][:30] + bytes(size - 30)
    too_long = records[8][:11] + b"\x40\0" + records[8][13:]
    handshake, no_stun = b"\x16".ljust(size, b"\0"), b"\0\1".ljust(size, b"\0")
    row = [*records[:9], forged, too_long, handshake, no_stun, *records[9:25], records[3], *records[25:]]
    assert {len(each) for each in row} == {size} and size * len(records) > 3 * 16_700
    packets: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(right.peer._dtls, "_packets", packets.extend)
        right.peer.agent._nominated[1].protocol.datagrams_received(b"".join(row), size, ("192.0.2.1", 1))  # type: ignore[attr-defined]
    assert packets == sent
    await close(left, right)


def test_what_comes_before_a_receiver_is_kept_up_to_a_bound(run: Run) -> None:
    async def main() -> None:
        left, right = End(), End()
        await introduce(left, right)
        await left.open()
        channel = await right.open(attach=False)
        await left.send(b"early")
        await asyncio.sleep(0.2)
        assert right.messages == []
        channel.attach(right)
        await right.until(lambda: right.messages == [b"early"])
        await close(left, right)

    async def flood() -> None:
        left, right = End(), End()
        await introduce(left, right)
        await left.open()
        channel = await right.open(attach=False)
        for _ in range(webrtc._EARLY // MAX_MESSAGE + 1):
            await left.send(bytes(MAX_MESSAGE))
        assert isinstance(channel, webrtc.WebRtcChannel)
        await channel._gone.wait()
        channel.attach(right)
        await right.until(lambda: right.closed == ["the peer sent more data than is allowed"])
        await close(left, right)

    run(main())
    run(flood())


@pytest.mark.usefixtures("an_address")
async def test_another_data_channel_is_closed_and_the_tunnels_is_taken() -> None:
    end, other = End(), RTCPeerConnection(RTCConfiguration(iceServers=[]))
    chat = other.createDataChannel("chat")
    loose = other.createDataChannel("tunnel", ordered=False)
    closed = asyncio.Event()
    chat.on("close", closed.set)
    tunnel = other.createDataChannel("tunnel")
    await other.setLocalDescription(await other.createOffer())
    answer = await end.peer.answer(other.localDescription.sdp)
    await other.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await end.open()
    async with asyncio.timeout(20):
        await closed.wait()
    assert tunnel.readyState == "open"
    assert loose.readyState != "open"
    await other.close()
    await end.peer.aclose()


# -- a data channel for each lane


async def send_all(end: End, lane: int, messages: list[bytes]) -> None:
    for message in messages:
        await end.until(lambda: end.channel.takes(lane))
        end.channel.send(message, lane)


@pytest.mark.parametrize("offerer_opens", [True, False])
async def test_each_lane_has_a_data_channel_and_both_send_on_it_at_once(offerer_opens: bool) -> None:
    left, right = await connected()
    opener, other = (left, right) if offerer_opens else (right, left)
    assert other.channel.split(4, opens=False) == 4
    assert [other.channel.takes(lane) for lane in range(4)] == [True, False, False, False]
    assert opener.channel.split(4, opens=True) == 4
    assert all(opener.channel.takes(lane) for lane in range(4)), "data may go right behind the opening"
    rng = random.Random(5)
    sent = {lane: [b"%d" % lane + rng.randbytes(rng.choice([1, 2000, 60_000])) for _ in range(50)] for lane in range(4)}
    both = [send_all(end, lane, messages) for end in (left, right) for lane, messages in sent.items()]
    await asyncio.gather(*both)
    for end in (left, right):
        await end.until(lambda end=end: len(end.messages) == 200)  # type: ignore[misc]
        for lane, messages in sent.items():
            assert [message for message in end.messages if message[:1] == b"%d" % lane] == messages
    await close(left, right)


async def test_a_full_lane_leaves_others_their_room() -> None:
    left, right = await connected()
    for end in (left, right):
        end.channel.split(4, opens=end is left)
    while left.channel.takes(1):  # the loop never turns here
        left.channel.send(bytes(16_384), 1)
    assert [left.channel.takes(lane) for lane in range(4)] == [True, False, True, True]
    assert datachannel.QUEUE <= left.channel.data._association.queued < datachannel.QUEUE + 32_768  # type: ignore[attr-defined]
    for lane in (2, 3):
        left.channel.send(bytes(16_384), lane)
    assert not left.channel.takes(1)
    rooms = left.rooms
    await left.until(lambda: left.rooms > rooms and left.channel.takes(1))
    await close(left, right)


async def test_messages_are_shorter_where_they_would_hold_other_lanes_up() -> None:
    left, right = await connected()
    assert left.channel.message_size == MAX_MESSAGE, "there is one lane"
    for end in (left, right):
        end.channel.split(2, opens=end is left)
    data = left.channel.data  # type: ignore[attr-defined]
    sizes = []
    for rate in (1e5, 16e6, 1e9, float("inf")):
        data._association._outbound.congestion = SimpleNamespace(rate=rate)
        sizes.append(left.channel.message_size)
    assert sizes == [16_384, 32_000, MAX_MESSAGE, MAX_MESSAGE]
    left.channel.data._over = True  # type: ignore[attr-defined]
    await close(left, right)


async def test_a_lane_whose_share_others_have_made_smaller_hears_when_there_is_room_again() -> None:
    left, right = await connected()
    for end in (left, right):
        end.channel.split(4, opens=end is left)
    await greet(left, right)  # the openings are sent
    for lane, size in ((1, 31_000), (2, 31_000), (3, 4000)):
        assert left.channel.takes(lane)
        left.channel.send(bytes(size), lane)
    assert not left.channel.takes(1), "65 KB wait, and more than a third of 64 KiB is its own"
    rooms = left.rooms
    await left.until(lambda: left.rooms > rooms)
    assert left.channel.takes(1)
    await close(left, right)


async def test_an_orderly_close_comes_after_all_that_was_sent_on_every_lane() -> None:
    left, right = await connected()
    for end in (left, right):
        end.channel.split(4, opens=end is left)
    for lane in (3, 2, 1):
        await send_all(left, lane, [bytes([lane]) * 30_000] * 20)
    await left.channel.aclose()
    await right.until(lambda: bool(right.closed))
    assert right.closed == ["closed by the peer"]
    assert len(right.messages) == 60
    await right.channel.aclose()


async def test_a_lane_that_the_peer_closes_is_the_channels_end() -> None:
    left, right = await connected()
    for end in (left, right):
        end.channel.split(2, opens=end is left)
    await send_all(left, 1, [b"x"])
    await right.until(lambda: right.messages == [b"x"])
    data = left.channel.data  # type: ignore[attr-defined]
    data._association.reset_stream(data._streams[1], asyncio.get_running_loop().time())
    data._schedule()
    await right.until(lambda: right.closed == ["closed by the peer"])
    await close(left, right)


async def test_a_lanes_channel_is_taken_once_and_not_before_it_was_agreed_on() -> None:
    left, right = await connected()
    data = left.channel.data  # type: ignore[attr-defined]
    first = data._streams[0]

    def open_lane(stream: int) -> None:
        opening = datachannel._OPENING.pack(datachannel._OPEN, 0, 0, 0, len(b"tunnel/1"), 0) + b"tunnel/1"
        data._association.send(stream, datachannel._CONTROL, opening)
        data._schedule()

    open_lane(first + 2)
    await left.send(b"behind it")
    await right.until(lambda: right.messages == [b"behind it"])
    assert right.channel.split(2, opens=False) == 2
    assert not right.channel.takes(1), "that one was refused"
    open_lane(first + 4)
    open_lane(first + 6)
    await right.until(lambda: right.channel.takes(1))
    await left.send(b"still there")
    await right.until(lambda: right.messages[1:] == [b"still there"])
    assert right.channel.data._streams == [first, first + 4]  # type: ignore[attr-defined]
    await close(left, right)


async def test_servers_that_name_nothing_are_no_reason_to_wait() -> None:
    left = End(ice=NO_SERVERS)
    assert "a=end-of-candidates" in await left.peer.offer()
    await left.peer.aclose()
    assert left.candidates == []


@pytest.mark.parametrize("together", [False, True])
async def test_records_that_openssl_still_holds_or_that_come_together_all_arrive(together: bool) -> None:
    left, right = await connected()
    tls = left.peer._dtls._ssl
    records: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(left.peer.agent, "transmit", lambda datagrams, size: records.append(datagrams))
        for number in range(3):
            await left.send(b"%d" % number * 500)
            await asyncio.sleep(0)
    assert tls is not None and records
    for datagram in [b"".join(records)] if together else records:
        right.peer.agent.data_received(datagram, 1)
    tls.send(b"no packet of SCTP")  # a record that nobody has read out when the next one follows
    await left.send(b"last")
    await right.until(lambda: len(right.messages) == 4)
    assert right.messages == [b"0" * 500, b"1" * 500, b"2" * 500, b"last"]
    await close(left, right)
