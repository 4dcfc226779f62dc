"""The shell in Chromium and Firefox: which of chat and app it shows, and how an app comes and goes."""

# ruff: noqa: F401, F811 - fixtures of another module are imported, and used by their names

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count

import pytest

from llmtunnel.invite import Invite

from ..support.browser import Page, View
from ..support.processes import Processes, Signal
from ..support.raw_server import reply
from ..support.upstream import Upstream, wait_until
from .model_server import models
from .test_chat import site, upstream, window

WORDS = "tulip-mango-onion-cedar-fruit"
HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b"
PAGE = b"""<!doctype html><title>App</title><h1>An app</h1><input id=kept>
<a id=away target=_blank href="%b/elsewhere">away</a>"""
NOTHING = reply(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
rooms = count(6_821_309)


@pytest.fixture(scope="module")
def invite(lasting: Processes, signal: Signal, upstream: Upstream) -> Invite:
    made = Invite(room=f"invite-{next(rooms)}", secret=WORDS, signal=signal.url)
    lasting.serve(made.room, upstream.url, made.signal, "--secret", WORDS)
    return made


@pytest.fixture
def page(window: Page, upstream: Upstream) -> Iterator[Page]:
    """The page of a new tab, with an upstream that has both an app and a chat; no error in the console at the end."""
    text = PAGE % upstream.url.encode()
    upstream.answers[b"/"] = reply(HTML % (len(text), text))
    upstream.answers[b"/v1/models"] = models("small")
    window.open("about:blank")
    window.problems.clear()
    yield window
    assert window.problems == []


def app_of(page: Page) -> View:
    """The app's document."""
    frame = page.frame(r"^http://[a-z2-7]{20}\.localhost:\d+/$")
    frame.until("document.querySelector('h1').textContent === 'An app'")
    return frame


def button(name: str) -> str:
    return f"[...document.querySelectorAll('button')].find(each => each.innerText === {json.dumps(name)})"


def press(page: Page, name: str) -> None:
    page.until(button(name))
    page.click(button(name))


def test_an_upstream_with_both_opens_as_the_app_with_a_switch(page: Page, site: str, invite: Invite) -> None:
    page.open(f"{site}#{invite.code}")
    frame = app_of(page)
    pressed = "[...document.querySelectorAll('.switch button')].map(each => [each.innerText, each.ariaPressed])"
    assert page.js(pressed) == [["App", "true"], ["Chat", "false"]]
    frame.js("document.querySelector('#kept').value = 'still here'")
    page.resize(360, 740)
    assert page.js(f"{button('Disconnect')}.getBoundingClientRect().right") <= 360
    page.resize(1280, 800)
    frame.until("innerWidth === 1280")
    press(page, "Chat")
    page.until("document.querySelector('textarea').checkVisibility()")
    assert page.js(pressed) == [["App", "false"], ["Chat", "true"]]
    assert frame.js("document.body.getClientRects().length") == 1, "an app that is not seen keeps its layout"
    page.js("document.querySelector('textarea').focus()")
    page.type("Hello")
    page.press("Enter")
    page.until("document.querySelector('article.assistant')?.innerText.includes('You said: Hello')")
    press(page, "App")
    page.until("!document.querySelector('textarea').checkVisibility()")
    assert frame.js("document.querySelector('#kept').value") == "still here"


def test_a_web_app_has_no_switch_and_ends_with_the_tunnel(
    page: Page, site: str, invite: Invite, upstream: Upstream
) -> None:
    upstream.answers[b"/v1/models"] = NOTHING
    origins = []
    for again in ("", "?again"):
        page.open(f"{site}{again}#{invite.code}")
        frame = app_of(page)
        origins.append(frame.js("origin"))
        assert not page.js("document.querySelector('.switch').checkVisibility()")
        box = page.js(
            "(({top, bottom, width}) => [top, bottom, width])(document.querySelector('iframe').getBoundingClientRect())"
        )
        assert box[0] < 70 and [round(each) for each in box[1:]] == [800, 1280]
        press(page, "Disconnect")
        page.until("document.querySelector('#code') && !document.querySelector('iframe')")
    assert origins[0] != origins[1]


def test_a_link_to_another_site_is_opened_only_if_the_person_agrees(
    page: Page, site: str, invite: Invite, upstream: Upstream
) -> None:
    page.open(f"{site}#{invite.code}")
    frame = app_of(page)
    frame.click("document.querySelector('#away')")
    page.until("document.querySelector('dialog')")
    assert f"{upstream.url}/elsewhere" in page.js("document.querySelector('dialog').innerText")
    press(page, "Stay here")
    page.until("!document.querySelector('dialog')")
    frame.click("document.querySelector('#away')")
    press(page, "Open in a new tab")
    page.until("!document.querySelector('dialog')")
    wait_until(page.others, "the new tab")
    [other] = page.others()
    other.until("location.pathname === '/elsewhere' && document.body.innerText === 'ok'")
    assert other.js("[opener, document.referrer]") == [None, ""]
    other.close()
    page.problems.clear()  # the other site has no icon
