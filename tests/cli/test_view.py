from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from llmtunnel.cli.view import render
from llmtunnel.paths import Path
from llmtunnel.status import (
    ActiveRequest,
    Health,
    PeerStatus,
    Percentiles,
    Phase,
    Progress,
    RequestRecord,
    Role,
    Status,
    TurnSource,
    UpstreamStatus,
)
from llmtunnel.summary import Throughput

NOW = 1_700_000_000.0
KEYS = "q or Ctrl-C: leave"

WAITING = Status(
    role=Role.PROXY,
    phase=Phase.WAITING,
    url="http://127.0.0.1:8000",
    signal="wss://signal.example",
    detail="Waiting for serve. Is it running, and is the number right?",
)
BUSY = Status(
    role=Role.SERVE,
    phase=Phase.READY,
    url="http://localhost:11434",
    signal="wss://signal.example",
    upstream=UpstreamStatus(health=Health.UP, models=("llama3.2", "qwen2.5:7b")),
    peers=(
        PeerStatus(
            peer="proxy-a1b2c3",
            path=Path.DIRECT,
            rtt=0.0123,
            since=NOW - 200,
            requests=12,
            active=2,
            bytes_up=1200,
            bytes_down=3_400_000,
        ),
        PeerStatus(peer="proxy-d4e5f6", path=Path.TURN, since=NOW - 5),
    ),
    requests=3,
    active=1,
    bytes_up=16_000,
    bytes_down=3_400_000,
)
ENDED = (
    RequestRecord(
        method="GET",
        path="/v1/models",
        status=200,
        bytes_up=0,
        bytes_down=300,
        first_byte_ms=4,
        duration_ms=5,
    ),
    RequestRecord(
        method="POST",
        path="/v1/chat/completions",
        status=200,
        bytes_up=200,
        bytes_down=32_300,
        first_byte_ms=41,
        duration_ms=2345,
        model="llama3.2",
        tokens=50,
        tokens_per_second=25.03,
    ),
    RequestRecord(
        method="POST",
        path="/v1/embeddings",
        status=None,
        bytes_up=10,
        bytes_down=0,
        first_byte_ms=None,
        duration_ms=20,
        error="the client went away",
    ),
)
ACTIVE = (
    ActiveRequest(
        method="POST",
        path="/v1/chat/completions",
        peer="proxy-a1b2c3",
        started=NOW - 3.24,
        status=200,
        first_byte_ms=40,
        model="qwen2.5:7b",
        tokens=40,
    ),
)


PULL = ActiveRequest(
    method="POST",
    path="/api/pull",
    started=NOW - 60,
    status=200,
    first_byte_ms=40,
    progress=Progress(done=1_900_000_000, total=4_700_000_000, what="pulling 8934d96d3f08"),
)


def history() -> Throughput:
    """Twenty seconds of more and more."""
    throughput = Throughput()
    for tick in range(81):
        status = replace(BUSY, bytes_up=200 * tick, bytes_down=500 * tick**2)
        throughput = throughput.added(status, now=NOW - 20 + tick / 4)
    return throughput


def shown(
    status: Status = BUSY,
    width: int = 79,
    height: int = 21,
    *,
    ended: tuple[RequestRecord, ...] = ENDED,
    active: tuple[ActiveRequest, ...] = ACTIVE,
    color: bool = False,
) -> str:
    """The view as text, as a terminal of that size is sent it."""
    view = render(status, ended, active, throughput=history(), now=NOW, width=width, height=height, keys=KEYS)
    console = Console(file=io.StringIO(), force_terminal=color, color_system="standard" if color else None)
    with console.capture() as captured:
        console.print(view, end="", soft_wrap=True)
    return captured.get()


AT_80 = """\
● ready
  upstream http://localhost:11434  answers: llama3.2, qwen2.5:7b
  signal   wss://signal.example
  peer          path         round trip  since            requests      up
  proxy-a1b2c3  direct            12 ms  3 min  12 done, 2 running  1.2 kB
  proxy-d4e5f6  TURN server           -    5 s                   0     0 B
  up          800 B/s  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁████████████████████   16.0 kB in all
  down     296.0 kB/s  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▂▂▂▃▃▃▄▄▄▄▅▅▅▆▆▆▇▇▇█    3.4 MB in all
  requests: 1 now, 3 ended
  method  path                  status  first byte  duration  tokens  tokens/s
◌ POST    /v1/chat/completions     200       40 ms     3.2 s      40      12.5
✗ POST    /v1/embeddings             -           -     20 ms  the client went …
● POST    /v1/chat/completions     200       41 ms     2.3 s      50      25.0
● GET     /v1/models               200        4 ms      5 ms       -         -
  q or Ctrl-C: leave
"""

AT_60 = """\
● ready
  upstream http://localhost:11434  answers: llama3.2, qwen…
  signal   wss://signal.example
  peer          path         round trip  since
  proxy-a1b2c3  direct            12 ms  3 min
  proxy-d4e5f6  TURN server           -    5 s
  up          800 B/s  ███████████████████   16.0 kB in all
  down     296.0 kB/s  ▂▂▃▃▃▄▄▄▄▅▅▅▆▆▆▇▇▇█    3.4 MB in all
  requests: 1 now, 3 ended
  method  path                 status  first byte  duration
◌ POST    /v1/chat/completio…     200       40 ms     3.2 s
✗ POST    /v1/embeddings            -           -     20 ms
● POST    /v1/chat/completio…     200       41 ms     2.3 s
● GET     /v1/models              200        4 ms      5 ms
  q or Ctrl-C: leave
"""

AT_140 = """\
● ready
  upstream http://localhost:11434  answers: llama3.2, qwen2.5:7b
  signal   wss://signal.example

  peer          path         round trip  since            requests      up    down
  proxy-a1b2c3  direct            12 ms  3 min  12 done, 2 running  1.2 kB  3.4 MB
  proxy-d4e5f6  TURN server           -    5 s                   0     0 B     0 B

  up          800 B/s  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁████████████████████   16.0 kB in all
  down     296.0 kB/s  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▂▂▂▃▃▃▄▄▄▄▅▅▅▆▆▆▇▇▇█    3.4 MB in all

  requests: 1 now, 3 ended
  method  path                  status  first byte  duration  tokens  tokens/s  model
◌ POST    /v1/chat/completions     200       40 ms     3.2 s      40      12.5  qwen2.5:7b
✗ POST    /v1/embeddings             -           -     20 ms  the client went away
● POST    /v1/chat/completions     200       41 ms     2.3 s      50      25.0  llama3.2
● GET     /v1/models               200        4 ms      5 ms       -         -

  q or Ctrl-C: leave
"""

NOBODY_THERE = """\
◌ waiting for serve
  Is it running, and is the number right?
  url      http://127.0.0.1:8000
  signal   wss://signal.example
  up          800 B/s  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁████████████████████       0 B in all
  down     296.0 kB/s  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▂▂▂▃▃▃▄▄▄▄▅▅▅▆▆▆▇▇▇█       0 B in all
  requests: 0 now, 0 ended
  q or Ctrl-C: leave
"""


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(79, 21, AT_80), (59, 21, AT_60), (139, 40, AT_140)], ids=["80", "60", "140"]
)
def test_a_busy_tunnel_on_terminals_of_different_width(width: int, height: int, expected: str) -> None:
    assert shown(width=width, height=height) == expected


def test_a_tunnel_with_nobody_there_says_why() -> None:
    assert shown(WAITING, ended=(), active=()) == NOBODY_THERE


def test_what_is_wrong_has_two_lines_at_most() -> None:
    for count, expected in ((20, ["  " + "why " * 18 + "why", "  why"]), (60, ["  " + "why " * 18 + "why"] * 2)):
        lines = shown(replace(WAITING, detail=("why " * count).rstrip())).splitlines()
        assert [line.rstrip("…") for line in lines if "why" in line] == expected


@pytest.mark.parametrize("width", [1, 10, 33, 59, 79, 200])
@pytest.mark.parametrize("height", [1, 2, 5, 12, 21, 60])
def test_no_view_is_larger_than_it_may_be_and_the_keys_stay(width: int, height: int) -> None:
    many = replace(BUSY, peers=BUSY.peers * 8)
    lines = shown(many, width, height, ended=ENDED * 30, active=ACTIVE * 5).splitlines()
    assert len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)
    assert height < 2 or lines[-1].startswith(f"  {KEYS}"[: width - 1])


def test_requests_take_the_lines_that_are_left_up_to_as_many_as_the_panel_shows() -> None:
    def rows(height: int) -> int:
        return sum("/v1/" in line for line in shown(height=height, ended=ENDED * 30).splitlines())

    assert len(shown(height=21, ended=ENDED * 30).splitlines()) == 21
    assert rows(22) == rows(21) + 1
    assert rows(80) == 20


def test_a_pull_says_how_far_it_is_in_place_of_tokens_that_it_has_not() -> None:
    for width, told in ((79, "40 %, 1.9 GB of …"), (139, "40 %, 1.9 GB of 4.7 GB, pulling 8934d96d3f08")):
        [line] = [line for line in shown(width=width, active=(PULL,)).splitlines() if "/api/pull" in line]
        assert line.endswith(told)
        assert line.startswith("◌ POST    /api/pull")


def test_the_spread_of_times_stands_beside_the_count_of_requests() -> None:
    text = shown(replace(BUSY, first_token=Percentiles(p50=320, p95=1200, count=3)))
    assert "\n  requests: 1 now, 3 ended  first token 320 ms, p95 1.2 s\n" in text


def test_on_the_narrowest_terminal_a_request_has_its_path_and_the_state_is_whole() -> None:
    lines = shown(replace(WAITING, phase=Phase.SIGNALING, detail="why " * 12), width=19).splitlines()
    assert lines[:5] == ["◌ reaching the", "  signal server", *["  why why why why"] * 3]
    assert "  method  path" in lines
    assert sum("/v1/" in line for line in lines) == 4


def test_peers_that_do_not_fit_are_counted() -> None:
    assert "  and 12 more\n" in shown(replace(BUSY, peers=BUSY.peers * 8))


def test_what_clients_send_cannot_steer_the_terminal_and_wide_characters_count_double() -> None:
    strange = replace(ENDED[0], path="/\x1b[2J" + "你" * 40, model="\n\r")
    text = shown(ended=(strange,), active=())
    assert "\x1b" not in text and "\r" not in text
    assert max(cell_len(line) for line in text.splitlines()) <= 79


def test_how_it_stands_is_coloured_and_told_without_colour_too() -> None:
    down = replace(BUSY, upstream=UpstreamStatus(health=Health.DOWN))
    for status, code, words in ((BUSY, "32", "● ready"), (WAITING, "33", "◌ waiting"), (down, "31", "✗ ready, but")):
        assert f"\x1b[1;{code}m{words}" in shown(status, color=True)
        assert shown(status).startswith(words)


def test_what_measures_the_tunnel_is_told_apart_from_requests() -> None:
    text = shown(replace(BUSY, bench_requests=310, bench_bytes=120_000_000))
    assert "  bench: 310 requests, 120.0 MB\n" in text and "1 now, 3 ended" in text


def test_a_turn_server_is_shown_with_who_named_it() -> None:
    told = shown(replace(BUSY, turn=("turn:turn.example:3478",), turn_from=TurnSource.SIGNAL))
    assert "  turn     turn:turn.example:3478 (from the signal server)\n" in told
    assert "  turn     " not in shown()
