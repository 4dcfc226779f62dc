"""The JavaScript core as a proxy, alive, towards serve's session: what is asked and answered, cut off, and resumed."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys

import pytest

from llmtunnel.config import KIB, MIB, Limits, Timeouts
from llmtunnel.errors import AuthenticationFailed, ErrorCode
from llmtunnel.protocol import frames
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.heads import ResponseHead
from llmtunnel.protocol.hello import Agree
from llmtunnel.protocol.outbox import STREAM_ROOM
from llmtunnel.session.stream import Stream

from ..support.embedded import until
from ..support.session_pair import OK, echo
from .live import SEEN, opened

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="asyncio reads no pipe of a process there")

SIZE = 5 * MIB
BODY = random.Random(17).randbytes(SIZE)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Served:
    """Serve's handler: what each path does, and what it has seen."""

    def __init__(self) -> None:
        self.sent = 0
        """Body bytes that the session has taken of /source."""
        self.came = hashlib.sha256()
        """Of what came to /sink."""
        self.size = 0
        self.begun = 0
        """Responses of /never that have begun."""
        self.go = asyncio.Event()
        """/sink reads once it is set."""
        self.go.set()

    async def __call__(self, stream: Stream) -> None:
        handlers = {b"/echo": echo, b"/source": self.source, b"/sink": self.sink, b"/never": self.never}
        await handlers[stream.request.target](stream)

    async def source(self, stream: Stream) -> None:
        await stream.send_response(ResponseHead(status=103, fields=((b"Link", b"</x>"),)))
        await stream.send_response(ResponseHead(status=200, reason=b"\xc4", fields=((b"X-Odd", b"\xe9\xff"),)))
        for start in range(0, SIZE, 50_000):
            await stream.send(BODY[start : start + 50_000])
            self.sent = min(SIZE, start + 50_000)
        await stream.send_end()

    async def sink(self, stream: Stream) -> None:
        await self.go.wait()
        while data := await stream.receive():
            self.came.update(data)
            self.size += len(data)
        await stream.send_response(OK)
        await stream.send_end()

    async def never(self, stream: Stream) -> None:
        await stream.send_response(OK)
        await stream.send(b"begun")
        self.begun += 1
        while await stream.receive():
            pass
        await asyncio.Event().wait()


async def test_bodies_of_megabytes_come_whole_in_both_directions_at_once() -> None:
    served = Served()
    async with opened(served) as web:
        report = await web.do("request", method="POST", target="/echo", size=SIZE)
        assert report["size"] == SIZE
        assert report["up"] == report["down"]
        report = await web.do("request", method="POST", target="/sink", size=SIZE)
        assert report["up"] == served.came.hexdigest()
        report = await web.do("request", method="GET", target="/source")
        assert report["down"] == sha256(BODY)
        interim, final = report["heads"]
        assert (interim["status"], interim["fields"]) == (103, [["Link", "</x>"]])
        assert (final["status"], final["reason"], final["fields"]) == (200, "\xc4", [["X-Odd", "\xe9\xff"]])
        status = await web.do("status")
        assert (status["active"], status["held"]) == (0, 0)
        assert status["rtt"] > 0


async def test_streams_run_side_by_side() -> None:
    async with opened(Served()) as web:
        asked = [web.start("request", method="POST", target="/echo", size=number * 50_000)[1] for number in range(20)]
        for number, report in enumerate(await asyncio.gather(*asked)):
            assert report["size"] == number * 50_000
            assert report["up"] == report["down"]


async def test_a_page_that_does_not_read_holds_a_window_and_serve_sends_no_more() -> None:
    served = Served()
    async with opened(served, limits=Limits(window=512 * KIB)) as web:
        paused, report = web.start("request", method="GET", target="/source", pause=True)
        while True:
            before = served.sent
            status = await web.do("status")
            if before == served.sent and status["held"] >= 512 * KIB:
                break
        assert status["held"] < 512 * KIB + 1000, "the window, and the head"
        assert served.sent <= 512 * KIB + STREAM_ROOM
        other = await web.do("request", method="POST", target="/echo", size=MIB)
        assert other["up"] == other["down"], "another stream is not stalled"
        await web.do("go", request=paused)
        assert (await report)["down"] == sha256(BODY)
        assert (await web.do("status"))["held"] == 0


async def test_a_serve_that_does_not_read_stops_the_page() -> None:
    served = Served()
    served.go.clear()
    async with opened(served, limits=Limits(window=512 * KIB)) as web:
        _, report = web.start("request", method="POST", target="/sink", size=SIZE)
        assert web.session
        await until(lambda: web.session is not None and web.session.budget.used >= 512 * KIB)
        assert (await web.do("status"))["held"] <= 100_000, "the part that waits for credit"
        assert web.session.budget.used < 512 * KIB + 1000
        served.go.set()
        assert (await report)["up"] == served.came.hexdigest()
        assert served.size == SIZE


async def test_either_side_may_cancel() -> None:
    served = Served()
    async with opened(served) as web:
        cancelled, report = web.start("request", method="POST", target="/never", size=100)
        await until(lambda: served.begun == 1)
        await web.do("reset", request=cancelled)
        told = await report
        assert (told["error"], told["code"], told["remote"]) == ("StreamReset", ErrorCode.CANCELLED, False)
        await until(lambda: web.session is not None and web.session.active == 0)

        _, report = web.start("request", method="GET", target="/never")
        await until(lambda: served.begun == 2)
        assert web.session
        stream = next(iter(web.session._streams.values()))
        stream.reset(ErrorCode.UPSTREAM, "The upstream broke off.")
        told = await report
        assert (told["code"], told["message"], told["remote"]) == (ErrorCode.UPSTREAM, "The upstream broke off.", True)
        assert told["size"] == len(b"begun"), "what came before it is delivered"
        assert (await web.do("status"))["active"] == 0


async def test_a_wrong_code_is_said_in_the_users_words() -> None:
    async with opened(Served(), connect=False) as web:
        web.connect(secret="guess")
        over = await web.event("carrier-over")
        assert (over["error"], over["message"]) == (
            "AuthenticationFailed",
            "Wrong code: it does not match the one that serve shows.",
        )
        assert "another signal server" in over["hint"]
        assert web.session is None
        assert isinstance(await web.carriers[1].wait_over(), AuthenticationFailed)


async def test_somebody_with_another_certificate_in_between_is_noticed() -> None:
    async with opened(Served(), connect=False) as web:
        web.connect(seen=type(SEEN)(proxy=SEEN.proxy, serve=b"x" * 32))
        assert (await web.event("carrier-over"))["error"] == "AuthenticationFailed"
        assert web.session is None


@pytest.mark.parametrize(
    "answer",
    [
        frames.encode(FrameType.AGREE, 0, Agree(version=2).encode()),
        frames.encode(FrameType.ERROR, 0, b"version: The proxy speaks 1 to 1, this serve 2."),
    ],
    ids=["chosen", "refused"],
)
async def test_an_unknown_version_is_said(answer: bytes) -> None:
    async with opened(Served(), connect=False) as web:
        web.announce().send(answer)
        over = await web.event("carrier-over")
        assert (over["error"], over["hint"]) == (
            "VersionMismatch",
            "Install the same version of llmtunnel on both sides.",
        )


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "closed"])
async def test_a_channel_that_is_cut_in_the_midst_of_streams_loses_nothing(silent: bool) -> None:
    served = Served()
    async with opened(served, limits=Limits(window=512 * KIB)) as web:
        reports = [
            web.start("request", method="POST", target="/echo", size=SIZE)[1],
            web.start("request", method="GET", target="/source")[1],
            web.start("request", method="POST", target="/sink", size=SIZE)[1],
        ]
        for number in range(1, 4):
            before = served.size
            await until(lambda before=before: served.size > before + SIZE // 20)
            channel = web.channels[number]
            channel.lost = True
            if not silent:
                channel.cut("gone")
            web.connect()
            await until(
                lambda number=number: web.session is not None and web.session._carrier is web.carriers[number + 1]
            )
        echoed, source, sink = await asyncio.gather(*reports)
        assert echoed["up"] == echoed["down"]
        assert source["down"] == sha256(BODY)
        assert sink["up"] == served.came.hexdigest()
        assert web.session
        assert [each for each in web.events if each["event"] == "agreed"] == [], "it is one session"


async def test_a_silent_peer_suspends_the_session_and_then_ends_it() -> None:
    quick = Timeouts(ping_busy=0.1, dead_busy=0.3, ping_idle=0.1, dead_idle=0.3)
    async with opened(Served(), timeouts=quick, resume_for=0.2) as web:
        _, report = web.start("request", method="GET", target="/never")
        await until(lambda: web.session is not None and web.session.active == 1)
        web.channels[1].lost = True
        assert (await web.event("suspended"))["reason"] == "The peer is silent."
        ended = await web.event("session-ended")
        assert ended["error"] == "PeerLost"
        assert ended["message"].startswith("The session ended: The peer is silent. It did not come back within ")
        assert (await report)["error"] == "PeerLost"


async def test_a_channel_that_speaks_again_carries_the_session_on() -> None:
    quick = Timeouts(ping_busy=0.1, dead_busy=0.3, ping_idle=0.1, dead_idle=0.3)
    async with opened(Served(), timeouts=quick) as web:
        web.channels[1].lost = True
        await web.event("suspended")
        web.channels[1].lost = False
        assert web.session
        web.session.measure()
        assert (await web.event("resumed"))["gap"] > 0.2
        report = await web.do("request", method="POST", target="/echo", size=1000)
        assert report["up"] == report["down"]


async def test_serve_that_stops_is_said_to_have_stopped() -> None:
    async with opened(Served()) as web:
        _, report = web.start("request", method="GET", target="/never")
        await until(lambda: web.session is not None and web.session.active == 1)
        assert web.session
        await web.session.aclose()
        ended = await web.event("session-ended")
        assert (ended["error"], ended["message"]) == ("PeerLost", "The other side has stopped.")
        assert (await report)["message"] == "The other side has stopped."


async def test_a_page_that_stops_ends_its_requests_at_serve() -> None:
    async with opened(Served()) as web:
        _, report = web.start("request", method="GET", target="/never")
        await until(lambda: web.session is not None and web.session.active == 1)
        await web.do("close")
        assert (await web.over()).message == "The other side has stopped."
        assert (await report)["error"] == "PeerLost"


async def test_a_greeting_that_is_given_up_ends_no_session() -> None:
    async with opened(Served()) as web:
        channel = web.announce()
        await web.do("giveUp", channel=channel.number)
        assert (await web.event("carrier-over"))["channel"] == channel.number
        report = await web.do("request", method="POST", target="/echo", size=1000)
        assert report["up"] == report["down"]
