"""The demo as a process: everything that it starts is real."""

from __future__ import annotations

import json
import os
import urllib.request

import pytest

from ..support.processes import Processes


def test_it_streams_an_answer_through_the_tunnel_and_ends_well(started: Processes) -> None:
    demo = started.start("-m", "llmtunnel", "demo", name="demo")
    assert demo.wait_exit(60) == 0, demo.report()
    demo.wait_line("a toy")
    demo.wait_line("the same as the direct one")
    demo.wait_line("first token after")
    demo.wait_line(r"path +direct")
    demo.wait_line(r"curl -N http://127\.0\.0\.1:\d+/v1/chat/completions")
    assert demo.errors == []


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
        "import sys, llmtunnel.cli.toy as toy;"
        "original = toy.ask;"
        "calls = iter(('one', 'other'));"
        "toy.ask = lambda url, prompt: original(url, next(calls));"
        "from llmtunnel.cli import main; sys.exit(main(['demo']))"
    )
    demo = started.start("-c", forgetful, name="demo")
    assert demo.wait_exit(60) == 1
    demo.wait_line("NOT the same as the direct one")
