"""The demo as a process: everything that it starts is real."""

from __future__ import annotations

import json
import os
import shlex
import urllib.request

import pytest

from ..support.processes import Processes


def test_it_streams_an_answer_through_the_tunnel_and_ends_well(started: Processes) -> None:
    demo = started.start("-m", "llmtunnel", "demo", name="demo")
    assert demo.wait_exit(60) == 0, demo.report()
    steps = (
        "a toy",
        "connecting",
        "connected",
        "^>",
        "to compare",
        r"path +direct",
        "first token after",
        "the same as",
    )
    told = [demo.lines.index(demo.wait_line(step).string) for step in steps]
    assert told == sorted(told)
    assert demo.errors == []


def test_it_ends_with_what_can_be_typed_then_and_no_port_that_is_closed(started: Processes) -> None:
    demo = started.start("-m", "llmtunnel", "demo", name="demo")
    assert demo.wait_exit(60) == 0, demo.report()
    ending = demo.lines[demo.lines.index(demo.wait_line("The demo ends here").string) :]
    assert [line.strip() for line in ending if line.startswith("  ")] == ["llmtunnel demo --stay", "llmtunnel serve"]
    assert "127.0.0.1" not in "".join(ending)


@pytest.mark.skipif(os.name != "posix", reason="no signals are sent from outside elsewhere")
def test_the_command_that_it_names_while_it_stays_up_works(started: Processes) -> None:
    demo = started.start("-m", "llmtunnel", "demo", "--stay", name="demo")
    curl, option, url, *rest = shlex.split(demo.wait_line("^ +curl ", timeout=60).string)
    assert (curl, option) == ("curl", "-N")
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    assert set(given) == {"-H", "-d"}
    name, _, value = given["-H"].partition(": ")
    with urllib.request.urlopen(urllib.request.Request(url, given["-d"].encode(), {name: value}), timeout=20) as answer:
        assert b"toy" in answer.read()
    demo.wait_line("  llmtunnel serve")
    demo.wait_line("POST /v1/chat/completions")
    demo.interrupt()
    assert demo.wait_exit() == 130


def test_programs_get_each_token_as_it_comes_and_what_came_of_it(started: Processes) -> None:
    demo = started.start("-m", "llmtunnel", "demo", "--json", name="demo")
    assert demo.wait_exit(60) == 0, demo.report()
    assert len(demo.events) == len(demo.lines)
    tokens = [event for event in demo.events if event["event"] == "token"]
    assert len(tokens) > 10
    assert tokens[-1]["time"] - tokens[0]["time"] > 0.1
    assert "toy" in "".join(token["text"] for token in tokens)
    result = demo.wait_event("demo")
    assert result["identical"] and result["path"] == "direct" and result["size"] > 1000
    assert result["first_token_ms"] > 0
    for role in ("serve", "proxy"):
        for event in ("signal-connected", "peer-connected", "ready", "request", "stopped"):
            demo.wait_event(event, role=role)


@pytest.mark.skipif(os.name != "posix", reason="no signals are sent from outside elsewhere")
def test_it_stays_up_when_asked_until_it_is_interrupted(started: Processes) -> None:
    demo = started.start("-m", "llmtunnel", "demo", "--stay", "--json", name="demo")
    url = demo.wait_event("demo", timeout=60)["url"]
    with urllib.request.urlopen(f"{url}/v1/models", timeout=20) as response:
        assert json.load(response)["data"][0]["id"] == "toy"
    demo.interrupt()
    assert demo.wait_exit() == 130
    assert demo.count("stopped") == 2


def test_an_answer_that_differs_from_the_direct_one_is_a_failure(started: Processes) -> None:
    forgetful = (
        "import sys, llmtunnel.endpoints.toy as toy;"
        "original = toy.ask;"
        "calls = iter(('one', 'other'));"
        "toy.ask = lambda url, prompt: original(url, next(calls));"
        "from llmtunnel.cli import main; sys.exit(main(['demo']))"
    )
    demo = started.start("-c", forgetful, name="demo")
    assert demo.wait_exit(60) == 1
    demo.wait_line("NOT the same as the direct one")
