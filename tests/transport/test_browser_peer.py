"""A real browser as the other peer: its SCTP against ours, both ways and in both roles."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from llmtunnel.transport.sctp.packet import I_DATA

from ..support.browser import BROWSERS, Page, browser
from ..support.echoes import DTLS, MANY, OFFERS, PATHS, SOME, echo
from ..support.webrtc_ends import End

SCRIPT = """
window.make = () => {
  const peer = window.peer = new RTCPeerConnection();
  window.over = false;
  window.echo = channel => {
    channel.binaryType = "arraybuffer";
    channel.onmessage = event => {
      const send = () => channel.send(event.data);
      // Chromium may deliver messages before the word that the channel is open.
      if (channel.readyState === "connecting") channel.addEventListener("open", send);
      else send();
    };
    channel.onclose = () => { window.over = true; };
    window.channel = channel;
  };
  peer.ondatachannel = event => window.echo(event.channel);
  return peer;
};
window.described = async () => {
  if (peer.iceGatheringState !== "complete")
    await new Promise(done => {
      peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && done();
    });
  return peer.localDescription.sdp;
};
window.answer = async sdp => {
  make();
  await peer.setRemoteDescription({type: "offer", sdp});
  await peer.setLocalDescription(await peer.createAnswer());
  return described();
};
window.offer = async () => {
  const peer = make();
  echo(peer.createDataChannel("tunnel"));
  await peer.setLocalDescription(await peer.createOffer());
  return described();
};
window.openLane = lane => { echo(peer.createDataChannel("tunnel/" + lane)); };
window.accept = sdp => peer.setRemoteDescription({type: "answer", sdp});
"""


@pytest.fixture(scope="module", params=BROWSERS)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser"), kind=request.param) as page:
        page.js(SCRIPT)
        yield page


@pytest.fixture(scope="module", params=BROWSERS)
def interleaving_page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser that has I-DATA (RFC 8260), which Chromium has only on request."""
    kind = request.param
    flags = ["--force-fieldtrials=WebRTC-DataChannelMessageInterleaving/Enabled/"] if kind == "chromium" else []
    with browser(tmp_path_factory.mktemp("browser"), *flags, kind=kind) as page:
        page.js(SCRIPT)
        yield page


async def call(page: Page, function: str, *arguments: str) -> str:
    """A function of the page, awaited in a thread: this loop is the other peer."""
    text = ", ".join(map(json.dumps, arguments))
    return str(await asyncio.to_thread(page.js, f"{function}({text})"))


@pytest.mark.parametrize("who_offers", ["we", "the page"])
@pytest.mark.parametrize("who_opens", ["we", "the page"])
async def test_a_browser_opens_or_accepts_a_channel_for_each_lane(page: Page, who_offers: str, who_opens: str) -> None:
    end = End(loopback=True)
    if who_offers == "we":
        await end.peer.accept(await call(page, "answer", await end.peer.offer()))
    else:
        await call(page, "accept", await end.peer.answer(await call(page, "offer")))
    await end.open()
    end.channel.split(3, opens=who_opens == "we")
    if who_opens == "the page":
        for lane in (1, 2):
            await call(page, "openLane", str(lane))
    sent = [b"%d %d" % (lane, number) for number in range(50) for lane in range(3)]
    for message in sent:
        lane = int(message[:1])
        await end.until(lambda lane=lane: end.channel.takes(lane))  # type: ignore[misc]
        end.channel.send(message, lane)
    await end.until(lambda: len(end.messages) == len(sent))
    for lane in (b"0", b"1", b"2"):
        own = [message for message in sent if message[:1] == lane]
        assert [message for message in end.messages if message[:1] == lane] == own
    await end.peer.aclose()


class Browser:
    """The page's half of the negotiation, for `echo`."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def offer(self) -> str:
        return await call(self._page, "offer")

    async def answer(self, sdp: str) -> str:
        return await call(self._page, "answer", sdp)

    async def accept(self, sdp: str) -> None:
        await call(self._page, "accept", sdp)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtls", DTLS)
@pytest.mark.parametrize("offers", OFFERS)
async def test_a_browser_echoes_megabytes_byte_for_byte(page: Page, offers: str, dtls: str, path: str) -> None:
    await echo(End(loopback=True), Browser(page), offers=offers, dtls=dtls, path=path, size=SOME)


@pytest.mark.long
@pytest.mark.timeout(700)
@pytest.mark.within(600)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("offers", "dtls"), [("we", "client"), ("it", "server")])
async def test_a_browser_echoes_a_hundred_megabytes(page: Page, offers: str, dtls: str, path: str) -> None:
    await echo(End(loopback=True), Browser(page), offers=offers, dtls=dtls, path=path, size=MANY)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("offers", OFFERS)
async def test_a_browser_with_interleaved_messages_echoes_megabytes(
    interleaving_page: Page, offers: str, path: str
) -> None:
    end = End(loopback=True)
    await echo(end, Browser(interleaving_page), offers=offers, dtls="client", path=path, size=SOME)
    assert end.channel.data._association._data == I_DATA  # type: ignore[attr-defined]


async def test_a_browser_and_we_interleave_the_messages_of_lanes(interleaving_page: Page) -> None:
    end = End(loopback=True)
    await end.peer.accept(await call(interleaving_page, "answer", await end.peer.offer()))
    await end.open()
    end.channel.split(3, opens=True)
    sent = {lane: [bytes([lane]) * size for size in (65_536, 1, 60_000, 1200, 65_536)] for lane in range(3)}
    for number in range(5):
        for lane, messages in sent.items():
            await end.until(lambda lane=lane: end.channel.takes(lane))  # type: ignore[misc]
            end.channel.send(messages[number], lane)
    await end.until(lambda: len(end.messages) == 15)
    for lane, messages in sent.items():
        assert [message for message in end.messages if message[0] == lane] == messages
    await end.peer.aclose()


@pytest.mark.parametrize("who_closes", ["we", "the page"])
async def test_a_channel_that_either_side_closes_ends_on_both(page: Page, who_closes: str) -> None:
    end = End(loopback=True)
    await end.peer.accept(await call(page, "answer", await end.peer.offer()))
    await end.open()
    await end.send(b"there")
    await end.until(lambda: end.messages == [b"there"])
    if who_closes == "we":
        await end.channel.aclose()
        await asyncio.to_thread(page.until, "over")
    else:
        await call(page, "channel.close")
        await end.until(lambda: bool(end.closed))
        assert end.closed == ["closed by the peer"]
    await end.peer.aclose()
