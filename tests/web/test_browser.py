"""The JavaScript core runs in a browser as it is, and proves a code to the Python core there."""

from __future__ import annotations

import json
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator

import pytest

from llmtunnel.invite import EXAMPLE, Invite
from llmtunnel.protocol.auth import ServeCredentials
from llmtunnel.protocol.door import Door
from llmtunnel.protocol.events import DataReceived, EndReceived, RequestReceived
from llmtunnel.protocol.keys import Certificates
from llmtunnel.status import Role

from ..support.browser import BROWSERS, Page
from ..support.core_pair import OK, Core, sent
from ..support.processes import PATIENCE
from .site import opened

INVITE = Invite.parse(EXAMPLE)
SEEN = Certificates(proxy=b"p" * 32, serve=b"s" * 32)


@pytest.fixture(scope="module", params=BROWSERS)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened("page.html", request.param, tmp_path_factory.mktemp("browser")) as page:
        yield page
        assert page.problems == []


def begin(page: Page, code: str) -> Core:
    """Let the page greet with a code; serve's side."""
    certificates = [b64encode(each).decode() for each in (SEEN.proxy, SEEN.serve)]
    page.js(f"window.told = window.over = null; begin({json.dumps(code)}, ...{json.dumps(certificates)})")
    door = ServeCredentials(room=INVITE.room, certificates=SEEN, door=Door(INVITE.secret))
    return Core(Role.SERVE, now=0.0, credentials=door, certificate=SEEN.proxy)


def exchange(page: Page, serve: Core) -> None:
    """Let each side take what the other one has said. Serve sends back the body that it gets."""
    messages = [b64encode(each).decode() for each in sent(serve)]
    for message in page.js(f"exchange({json.dumps(messages)})"):
        for event in serve.receive_message(b64decode(message), 0.0):
            match event:
                case RequestReceived(stream):
                    serve.send_response(stream, OK)
                case DataReceived(stream, data):
                    serve.consumed(stream, len(data))
                    assert serve.send_data(stream, memoryview(data)) == len(data), "the outbox is emptied each time"
                case EndReceived(stream):
                    serve.send_end(stream)


def test_a_page_proves_the_code_and_sends_and_receives(page: Page) -> None:
    serve = begin(page, EXAMPLE.upper().replace("-", " "))
    deadline = time.monotonic() + PATIENCE
    while not page.js("window.told"):
        assert time.monotonic() < deadline and not page.js("window.over")
        exchange(page, serve)
    assert page.js("window.told") == {"status": 200, "same": True}


def test_a_page_with_a_wrong_code_says_so(page: Page) -> None:
    serve = begin(page, EXAMPLE.replace("tulip", "mango"))
    deadline = time.monotonic() + PATIENCE
    while not page.js("window.over"):
        assert time.monotonic() < deadline
        exchange(page, serve)
    assert page.js("window.over") == "AuthenticationFailed: Wrong code: it does not match the one that serve shows."
    assert not serve.established
