from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from llmtunnel.notebook import html
from llmtunnel.status import Health, Percentiles, Phase, Progress, Role, TurnSource, UpstreamStatus
from llmtunnel.summary import SPAN, Throughput

from ..support.scripted_handle import HOSTILE, NOW, active, peer, record, status


class Reader(HTMLParser):
    """What a page makes of HTML: its elements, attributes and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("img", "input", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_state_is_told_in_words_beside_its_mark() -> None:
    read = Reader(
        html.state(status(phase=Phase.WAITING, detail="Waiting for serve. Is it running, and is the number right?"))
    )
    assert "◌ waiting for a proxy" in read.text
    assert "http://127.0.0.1:11434" in read.text
    assert "Is it running, and is the number right?" in read.text


@pytest.mark.parametrize(
    ("health", "told"), [(Health.UP, "● upstream answers: a, b"), (Health.DOWN, "✗ upstream does not answer")]
)
def test_the_upstreams_health_and_models_are_told(health: Health, told: str) -> None:
    up = UpstreamStatus(health=health, models=("a", "b"))
    assert told in Reader(html.state(status(upstream=up))).text


def test_nothing_is_said_of_an_upstream_that_nobody_has_asked() -> None:
    assert "upstream" not in html.state(status(upstream=UpstreamStatus()))
    assert "upstream" not in html.state(status(role=Role.PROXY))


def test_traffic_has_rates_totals_and_a_picture_each_way() -> None:
    history = Throughput().added(status(), now=NOW)
    now = status(bytes_up=3_000, bytes_down=6_000_000)
    read = Reader(html.traffic(now, history.added(now, now=NOW + 3)))
    assert "up 1.0 kB/s 3.0 kB in all" in read.text
    assert "down 2.0 MB/s 6.0 MB in all" in read.text
    assert read.tags.count("svg") == 2


def test_a_sparkline_rises_to_its_top_at_the_highest_value() -> None:
    drawn = html.sparkline([0, 10, 5], "up")
    assert "L0 24.0 L1 1.0 L2 12.5 L2 24Z" in drawn
    assert html.sparkline([0.0] * SPAN, "up").count("24.0") == SPAN


def test_the_peers_table_is_left_out_where_there_is_none() -> None:
    assert html.peers(status(), now=NOW) == ""
    read = Reader(html.peers(status(peers=(peer(), peer("proxy-2"))), now=NOW))
    assert read.tags.count("tr") == 3
    assert "direct" in read.text
    assert "4 ms" in read.text


def test_twenty_requests_under_way_do_not_hide_those_that_ended() -> None:
    running = tuple(active(f"/running/{number}") for number in range(64))
    ended = tuple(record(f"/ended/{number}", tokens=7, tokens_per_second=30.5, model="llama3") for number in range(20))
    read = Reader(html.requests(status(active=64, requests=20), running, ended, now=NOW))
    assert read.tags.count("tr") == 1 + 2 * html.ROWS
    assert "64 under way, 20 ended" in read.text
    assert read.text.index("/running/0") < read.text.index("/ended/19") < read.text.index("/ended/0")
    assert "30.5" in read.text
    assert "llama3" in read.text


def test_a_request_that_failed_says_why_below_it() -> None:
    ended = (record("/first"), record(status=403, error="refused by serve's --deny"))
    read = Reader(html.requests(status(), (), ended, now=NOW))
    assert read.text.index("403") < read.text.index("refused by serve's --deny") < read.text.index("/first")


def test_a_turn_server_is_told_with_who_named_it_and_only_while_the_tunnel_runs() -> None:
    told: dict[str, Any] = {"turn": ("turn:t<b>",), "turn_from": TurnSource.SIGNAL}
    assert "TURN server turn:t<b> (from the signal server)" in Reader(html.state(status(**told))).text
    assert "TURN" not in html.state(status())
    assert "TURN" not in html.state(status(phase=Phase.STOPPED, **told))


def test_a_tunnel_that_has_ended_has_no_rate_and_no_upstream() -> None:
    ended = status(phase=Phase.STOPPED, bytes_down=2_000, upstream=UpstreamStatus(health=Health.UP))
    history = Throughput().added(status(), now=NOW)
    assert Reader(html.traffic(ended, history.added(ended, now=NOW + 1))).text == "0 B up, 2.0 kB down"
    assert "upstream" not in html.state(ended)


def test_what_is_saved_says_of_when_it_is_and_draws_nothing_by_script() -> None:
    read = Reader(html.saved(status(), (record(),), now=NOW, panel="abc"))
    assert re.search(r"Last state, saved at 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d \S+\. Run the cell again", read.text)
    assert ("class", "llmtunnel lt-saved lt-abc") in read.attributes
    assert not {"script", "img"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on")]


def test_the_title_tells_the_totals_and_how_the_first_token_is_spread() -> None:
    spread = Percentiles(p50=320.0, p95=1200.0, count=14)
    now = status(requests=14, failed=1, tokens=620, first_token=spread, first_byte=spread)
    told = "0 under way, 14 ended, 1 failed, 620 tokens, first token 320 ms, p95 1.2 s"
    assert told in Reader(html.requests(now, (), (), now=NOW)).text


def test_long_work_has_a_bar_and_words() -> None:
    pull = active("/api/pull", progress=Progress(done=19, total=100, what="pulling 8934"))
    read = Reader(html.requests(status(), (pull,), (), now=NOW))
    assert ("value", "0.190") in read.attributes
    assert "19 %, 19 B of 100 B, pulling 8934" in read.text


def test_details_stand_below_their_request_with_every_phase_and_field() -> None:
    fields = (("content-type", "application/json"), ("authorization", None))
    phases = {"queued_ms": 1.0, "first_byte_ms": 20.0, "first_body_ms": 21.0, "first_token_ms": 22.0}
    known = record("/first", id=7, started=NOW, error="cut off", request_fields=fields, total_down=900, **phases)
    read = Reader(html.requests(status(), (active(id=8),), (known,), now=NOW, details=True))
    assert {("data-id", "7"), ("data-of", "7"), ("data-id", "8"), ("data-of", "8")} <= set(read.attributes)
    below = read.text[read.text.index("/first") :]
    for told in (
        *("response body", "2 B of 900 B", "passed on", "after 1 ms", "response head", "after 20 ms"),
        *("first body byte", "after 21 ms", "first token", "after 22 ms", "end", "after 4 ms", "error", "cut off"),
        *("request fields", "content-type: application/json, authorization"),
    ):
        below = below[below.index(told) + len(told) :]


def test_a_proxy_shows_what_clients_take() -> None:
    read = Reader(html.usage("http://127.0.0.1:8000/v1", ("a", "b", "c", "d", "e", HOSTILE), key=False))
    values = [value for name, value in read.attributes if name == "value"]
    assert values == ["http://127.0.0.1:8000/v1", "a", "b", "c", "d"]
    assert "and 2 more" in read.text
    snippet = read.text[read.text.index("from openai") :].removesuffix("Copy")
    assert len(snippet.splitlines()) == 3
    assert 'base_url="http://127.0.0.1:8000/v1", api_key="none"' in snippet
    compile(snippet, "snippet", "exec")
    hostile = Reader(html.usage("http://127.0.0.1:8000/v1", (HOSTILE,), key=True))
    compile(hostile.text[hostile.text.index("from openai") :].removesuffix("Copy"), "snippet", "exec")
    assert 'api_key="YOUR KEY"' in hostile.text
    assert not {"script", "img"} & set(hostile.tags)


def test_what_strangers_choose_stays_text() -> None:
    now = status(
        phase=Phase.WAITING,
        url=HOSTILE,
        detail=HOSTILE,
        peers=(peer(HOSTILE),),
        upstream=UpstreamStatus(health=Health.UP, models=(HOSTILE,)),
    )
    bad = {"method": HOSTILE, "model": HOSTILE, "error": HOSTILE}
    drawn = html.still(now, (record(HOSTILE, **bad),), now=NOW)
    fields = ((HOSTILE, HOSTILE),)
    running = html.requests(now, (active(HOSTILE, model=HOSTILE, request_fields=fields),), (), now=NOW, details=True)
    for read in (Reader(drawn), Reader(running)):
        assert not {"script", "img"} & set(read.tags)
        assert not [name for name, _ in read.attributes if name.startswith("on")]
        assert read.open == []
        assert "<script>alert('x')</script>" in read.text
        assert "\x1b" not in read.text


def test_the_still_picture_tells_without_its_style() -> None:
    read = Reader(html.still(status(peers=(peer(),), requests=1, bytes_down=2_000), (record(),), now=NOW))
    for told in ("ready", "2.0 kB down", "proxy-ab12cd", "/v1/models", "0 under way, 1 ended"):
        assert told in read.text
