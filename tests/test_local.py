"""Servers for notebooks that show all of a tunnel."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

import pytest

import llmtunnel
from llmtunnel import local
from llmtunnel.errors import AddressInUse

from .support.ports import fetch


def loop_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "llmtunnel" in thread.name]


def test_a_whole_tunnel_in_one_process_answers_a_client_that_blocks() -> None:
    with local.toy() as toy, local.signal() as signal:
        with llmtunnel.serve(toy.url, signal=signal.url, stun=()) as server:
            assert server.invite is not None
            with llmtunnel.proxy(server.invite, stun=(), listen="127.0.0.1:0") as proxy:
                assert b"toy" in fetch(f"{proxy.url}/v1/models")
        assert len(loop_threads()) == 1
        assert toy.url in repr(toy)
    assert "closed" in repr(toy)
    assert loop_threads() == []
    with pytest.raises(urllib.error.URLError):
        fetch(toy.url)


def test_a_port_that_is_taken_holds_nothing() -> None:
    with local.toy() as toy:
        port = int(toy.url.rpartition(":")[2])
        with pytest.raises(AddressInUse):
            local.toy(port)
        with pytest.raises(OSError, match="in use"):
            local.signal(port)
        assert b"ok" in fetch(f"{toy.url}/health")
    assert loop_threads() == []


def test_one_that_is_dropped_warns() -> None:
    toy = local.toy()
    hold, url = toy._hold, toy.url
    with pytest.warns(ResourceWarning, match=f"unclosed llmtunnel toy model server: {url}"):
        del toy
    hold.close()
    assert loop_threads() == []
