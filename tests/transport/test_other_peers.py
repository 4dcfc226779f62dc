"""Other people's SCTP as the other peer: libwebrtc's, libdatachannel's and aiortc's. Chromium: `test_browser_peer`.

Each echoes what it is sent, in both roles of the negotiation and of DTLS, with and without losses.
"""

from __future__ import annotations

import pytest

from llmtunnel.transport.webrtc import WebRtcChannel

from ..support.echoes import DTLS, MANY, OFFERS, PATHS, SOME, echo
from ..support.other_channels import KINDS, installed, other_process
from ..support.webrtc_ends import End

pytestmark = pytest.mark.usefixtures("an_address")

OTHERS = [kind for kind in KINDS if installed(kind)]
"""There is no pylibdatachannel for some systems and versions of Python (see pyproject.toml)."""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtls", DTLS)
@pytest.mark.parametrize("offers", OFFERS)
@pytest.mark.parametrize("kind", OTHERS)
async def test_megabytes_come_back_in_order_byte_for_byte(kind: str, offers: str, dtls: str, path: str) -> None:
    end = End(loopback=True)
    with other_process("tests.support.other_channels", kind) as other:
        await echo(end, other, offers=offers, dtls=dtls, path=path, size=SOME)
    assert isinstance(end.channel, WebRtcChannel)
    # Of these, only libdatachannel needs no checksum (RFC 9653).
    assert end.channel.data._association._has_checksum == (kind != "pylibdatachannel")


@pytest.mark.long
@pytest.mark.timeout(700)
@pytest.mark.within(600)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("offers", "dtls"), [("we", "client"), ("it", "server")])
@pytest.mark.parametrize("kind", OTHERS)
async def test_a_hundred_megabytes_do(kind: str, offers: str, dtls: str, path: str) -> None:
    with other_process("tests.support.other_channels", kind) as other:
        await echo(End(loopback=True), other, offers=offers, dtls=dtls, path=path, size=MANY)
