"""A page with a serve of each earlier version, which knows neither its key nor sealed pipes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..e2e.test_versions import Version, earlier
from ..support.browser import BROWSERS, Page
from ..support.processes import Processes
from ..support.upstream import Upstream
from .site import opened
from .test_page_keys import connected
from .test_peer import call, forget, reach, upstream

__all__ = ["earlier", "forget", "upstream"]


@pytest.fixture(params=BROWSERS)
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    with opened("peer.html", request.param, tmp_path) as page:
        yield page
        page.js("window.peer?.close()")


def test_a_page_works_there_as_before_and_without_the_relay(
    processes: Processes, page: Page, upstream: Upstream, earlier: Version
) -> None:
    signal = processes.signal()
    common = ("--signal", signal.url, "--stun", "none", "--json", "-v")
    serve = earlier.start(processes, "serve", upstream.url, *common)
    code = serve.wait_event("invite")["code"]
    page.js(f"connect({json.dumps(code)})")
    reach(page, "connected")
    assert page.js("peer.state.path") == "direct"
    assert connected(serve).startswith("proxy-")
    assert call(page, "send", {"target": "/"})["text"] == "ok"
    page.js("peer.close()")
    page.js("Object.assign(window, {udp: false, hurried: true}).udp")
    page.js(f"connect({json.dumps(code)})")
    page.until("peer.state.problem?.message.includes('over the relay')")
    assert page.js("peer.state.phase") != "connected"
