"""A real browser as the other peer: its SCTP against ours, both ways and in both roles."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.browser import CHROMIUM, Page, browser
from ..support.webrtc_ends import End

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

SCRIPT = """
window.make = () => {
  const peer = window.peer = new RTCPeerConnection();
  window.over = false;
  window.echo = channel => {
    channel.binaryType = "arraybuffer";
    channel.onmessage = event => channel.send(event.data);
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


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path) as page:
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


@pytest.mark.parametrize("who_offers", ["we", "the page"])
async def test_a_browser_echoes_megabytes_byte_for_byte(page: Page, who_offers: str) -> None:
    end = End(loopback=True)
    if who_offers == "we":
        await end.peer.accept(await call(page, "answer", await end.peer.offer()))
    else:
        await call(page, "accept", await end.peer.answer(await call(page, "offer")))
    await end.open()
    rng = random.Random(3)
    sent = [rng.randbytes(rng.choice([1, 1000, 16_384, 65_536])) for _ in range(400)]
    for message in sent:
        await end.send(message)
    await end.until(lambda: len(end.messages) == len(sent))
    assert end.messages == sent
    if who_offers == "we":
        await end.channel.aclose()
        await asyncio.to_thread(page.until, "over")
    else:
        await call(page, "channel.close")
        await end.until(lambda: bool(end.closed))
        assert end.closed == ["closed by the peer"]
    await end.peer.aclose()
