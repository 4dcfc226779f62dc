from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest

from signal_server.cli import _limits, _parser, main, parse_address, parse_size, settable, shown
from signal_server.limits import Flag, Limits, RelayLimits

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "signal_server/README.md"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8787", ("127.0.0.1", 8787)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("localhost:80", ("localhost", 80)),
        ("[::1]:8787", ("::1", 8787)),
        ("[::]:0", ("::", 0)),
        ("[::1]", ("::1", 8787)),
        ("::1", ("::1", 8787)),
        ("::", ("::", 8787)),
        ("2001:db8:0:0:0:0:0:1", ("2001:db8:0:0:0:0:0:1", 8787)),
        ("9000", ("127.0.0.1", 9000)),
        ("example.org", ("example.org", 8787)),
    ],
)
def test_addresses_are_read_as_people_write_them(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", ":", ":9000", "::1:8787", "2001:db8::5:80", "a:b", "a:65536", "a:-1", "[::1]:", "ws://a:1", "[::1", "٣"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_address(text)


@pytest.mark.parametrize(
    "argv",
    [
        ["--listen", "nonsense:port"],
        ["--port", "70000"],
        ["--port", "1", "--listen", "1"],
        ["--max-proxies", "0"],
        ["--max-proxies", "129"],
        ["--max-proxies", "many"],
        ["--log-level", "loud"],
        ["--relay-rate", "0"],
        ["--relay-rate", "fast"],
        ["--relay-total", "1XB"],
        ["--relay-total", "-1MB"],
        ["--relay-idle", "0"],
        ["--relay-idle", "soon"],
        ["--trusted-proxy", "caddy"],
        ["--forwarded-header", "Forwarded"],
        ["--forwarded-header", "X Forwarded"],
        ["--forwarded-header", ""],
        ["--messages-per-address", "0"],
        ["--messages-per-room", "0"],
        ["--rooms-per-address", "0"],
        ["--members-per-address", "-1"],
        ["--joins-per-minute", "many"],
        ["--joins-per-minute", "9999999999"],
        ["--drain", "-1"],
        ["--drain", "nan"],
        ["--drain", "soon"],
        ["--metrics-listen", "nonsense:port"],
        ["--log-format", "xml"],
        ["unexpected"],
    ],
)
def test_arguments_that_cannot_be_used_exit_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv, prog="llmtunnel signal")
    assert caught.value.code == 2
    assert "llmtunnel signal: error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("10KB", 10_000), ("4MiB", 4 << 20), ("1gb", 10**9), ("20GiB", 20 << 30)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "MB", "1.5MB", "1 MB", "1MBMB", "9" * 16, "٣", "-1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_size(text)


def test_the_relays_flags_become_its_limits_and_their_defaults_are_the_relays() -> None:
    assert _limits(_parser("x").parse_args([])) == Limits()
    assert _limits(_parser("x").parse_args(["--no-relay"])).relay is None
    flags = "--relay-rate 1KB --relay-rate-all 2KB --relay-total 3KB --relay-total-all 4KB --relay-idle 5"
    relay = RelayLimits(rate=1000, rate_all=2000, total=3000, total_all=4000, idle=5)
    assert _limits(_parser("x").parse_args(flags.split())).relay == relay


def test_the_flags_of_an_address_become_its_limits() -> None:
    flags = "--rooms-per-address 1 --members-per-address 2 --joins-per-minute 3"
    limits = Limits(rooms_each=1, members_each=2, joins=3)
    assert _limits(_parser("x").parse_args(flags.split())) == limits


SETTABLE = [(kind, *each) for kind in (Limits, RelayLimits) for each in settable(kind)]


@pytest.mark.parametrize(("kind", "limit", "flag"), SETTABLE, ids=[flag.name for _, _, flag in SETTABLE])
def test_a_limit_is_set_by_its_flag_and_by_no_other(kind: type, limit: Field[Any], flag: Flag) -> None:
    limits = _limits(_parser("x").parse_args([flag.name, "7"]))
    values = {(Limits, each): getattr(limits, each.name) for each in fields(Limits)}
    values |= {(RelayLimits, each): getattr(limits.relay, each.name) for each in fields(RelayLimits)}
    follow = {"relay", "pipes_each"}
    changed = [(*key, value) for key, value in values.items() if value != key[1].default and key[1].name not in follow]
    assert changed == [(kind, limit, 7)]


def test_the_readme_lists_the_flags_with_their_defaults() -> None:
    rows = re.findall(r"^\| `(--\S+) ([A-Z]+)` \| (\S+) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    table = {name: (unit, default) for name, unit, default in rows}
    said = {flag.name: (flag.unit, shown(limit.default, flag.unit)) for _, limit, flag in SETTABLE}
    # Others have defaults in words.
    assert {name: table.get(name) for name in said} == said


def test_help_says_what_a_bare_port_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "every IPv4 interface" in " ".join(capsys.readouterr().out.split())


def test_the_command_line_loads_nothing_heavy_and_nothing_of_llmtunnel() -> None:
    code = (
        "import sys, signal_server.cli; signal_server.cli._parser('x').format_help()\n"
        "print([name for name in ('aiohttp', 'asyncio', 'llmtunnel') if name in sys.modules])\n"
        "import signal_server.process\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'llmtunnel'])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout.split() == ["[]", "[]"]
