"""The chat by keyboard, with input methods, pasted files, edits that are given up, and a policy of serve."""

# ruff: noqa: F401, F811 - fixtures of another module are imported, and used by their names

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from llmtunnel.invite import Invite

from ..support.browser import CHROMIUM_FIRST, Page, browser
from ..support.processes import Processes, Signal
from ..support.upstream import Upstream, wait_until
from .model_server import asked
from .test_chat import (
    IDLE,
    LAST,
    MESSAGE,
    ask,
    ask_and_wait,
    button,
    enter,
    forget,
    invite,
    new_invite,
    page,
    png,
    press,
    prose,
    serve,
    site,
    upstream,
)

NUMBER = "document.querySelectorAll('article').length"
EDITING = "document.querySelector('.editing').checkVisibility()"
FOCUS = "document.activeElement"
TRANSFER = """(() => {
    const transfer = new DataTransfer();
    for (const [type, text] of %s) transfer.setData(type, text);
    for (const [name, type, data] of %s) {
        const bytes = Uint8Array.from(atob(data), each => each.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type }));
    }
    return transfer;
})()"""
PICTURE = ("picture.png", "image/png", base64.b64encode(png(8, 8)).decode())


@pytest.fixture(scope="module", params=CHROMIUM_FIRST)
def window(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser"), kind=request.param) as page:
        page.resize(1280, 800)
        yield page


def transfer(*files: tuple[str, str, str], texts: tuple[tuple[str, str], ...] = ()) -> str:
    """What is pasted or dropped."""
    return TRANSFER % (json.dumps(texts), json.dumps(files))


def paste(data: str) -> str:
    how = f"{{clipboardData: {data}, bubbles: true, cancelable: true}}"
    return f"{MESSAGE}.dispatchEvent(new ClipboardEvent('paste', {how}))"


def drop(data: str) -> str:
    return f"{MESSAGE}.dispatchEvent(new DragEvent('drop', {{dataTransfer: {data}, bubbles: true, cancelable: true}}))"


def key(name: str, **more: object) -> str:
    """A press of a key that no driver can make."""
    told = {"key": name, "bubbles": True, "cancelable": True, **more}
    return f"{MESSAGE}.dispatchEvent(new KeyboardEvent('keydown', {json.dumps(told)}))"


def test_enter_in_a_setting_saves_it(page: Page, site: str, invite: Invite, upstream: Upstream) -> None:
    enter(page, site, invite)
    press(page, "Chat settings")
    page.js("document.querySelector('#key').focus()")
    page.type("sesame")
    page.press("Enter")
    wait_until(lambda: upstream.requests[-1].values(b"authorization") == [b"Bearer sesame"], "the key to be used")
    press(page, "Chat settings")
    page.js("document.querySelector('#key').focus()")
    page.type("other")
    press(page, "Cancel")
    page.until("!document.querySelector('dialog')")
    ask_and_wait(page, "Hello")
    assert upstream.requests[-1].values(b"authorization") == [b"Bearer sesame"]


def test_an_edit_ends_with_its_button_with_another_answer_and_with_another_conversation(
    page: Page, site: str, invite: Invite
) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Hello")
    for name in ("Cancel", "Regenerate", "New chat"):
        press(page, "Edit message")
        page.until(f"{EDITING} && {MESSAGE}.value === 'Hello'")
        press(page, name)
        page.until(f"!{EDITING} && {MESSAGE}.value === '' && {IDLE}")
        assert page.js(NUMBER) == (0 if name == "New chat" else 2)
    page.click("document.querySelector('.side li .title')")
    page.until(f"{NUMBER} === 2")
    ask_and_wait(page, "More")
    assert page.js(NUMBER) == 4


def test_a_conversation_that_is_deleted_while_it_is_answered_stays_deleted(
    page: Page, site: str, invite: Invite
) -> None:
    enter(page, site, invite)
    ask(page, "Endless")
    page.until(f"{LAST}.innerText.includes('more')")
    press(page, "Delete: Endless")
    press(page, "Delete")
    page.until(f"{IDLE} && {NUMBER} === 0")
    ask_and_wait(page, "Hello")
    assert page.js("document.querySelector('.side ul').innerText.trim()") == "Hello"


def test_a_key_that_an_input_method_takes_does_nothing(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Hello")
    press(page, "Edit message")
    for composing in ({"isComposing": True}, {"keyCode": 229}):  # Safari tells only the second one
        assert page.js(key("Enter", **composing)) is True, "the browser handles it"
        page.js(key("Escape", **composing))
    assert page.js(f"[{EDITING}, {NUMBER}]") == [True, 2]
    page.press("Enter")
    page.until(f"!{EDITING} && {IDLE} && {NUMBER} === 2")


def test_a_message_takes_the_images_that_were_attached_before_it_was_sent(
    page: Page, site: str, invite: Invite, upstream: Upstream
) -> None:
    enter(page, site, invite)
    page.js(f"{MESSAGE}.value = 'What is this?'")
    page.js(f"{paste(transfer(*[PICTURE] * 5))}; {paste(transfer(*[PICTURE] * 5))}; {key('Enter')}")
    page.until(f"{NUMBER} === 2 && {IDLE}")
    content = asked(upstream)[0]["messages"][0]["content"]
    assert [each["type"] for each in content] == ["text", *["image_url"] * 8]
    assert not page.js("document.querySelector('.previews').checkVisibility()")


def test_text_is_pasted_as_text_and_another_file_is_refused(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    text = (("text/plain", "cells"), ("text/html", "<table>cells</table>"))
    assert page.js(paste(transfer(PICTURE, texts=text))) is True, "the browser pastes it"
    assert page.js(paste(transfer(PICTURE, texts=text[1:]))) is False
    page.until("document.querySelectorAll('.preview').length === 1")
    page.js(drop(transfer(("notes.pdf", "application/pdf", ""))))
    page.until("document.querySelector('.problem').textContent.startsWith('Only images can be attached.')")


def test_the_focus_stays_where_a_keyboard_can_go_on(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Hello")
    page.js(f"{button('Regenerate')}.focus()")
    page.press("Enter")
    page.until(f"{IDLE} && {button('Regenerate')}")
    assert page.js(f"{FOCUS}.ariaLabel") == "Conversation"
    page.js(f"{button('Delete: Hello')}.focus()")
    page.press("Enter")
    page.until(button("Delete"))
    page.js(f"{button('Delete')}.focus()")
    page.press("Enter")
    page.until(f"{FOCUS}.innerText === 'New chat'")
    page.resize(360, 740)
    for leave in ("Escape", "Enter"):
        page.js(f"{button('Conversations')}.focus()")
        page.press("Enter")
        page.until(f"{FOCUS}.innerText === 'New chat'")
        page.press(leave)
        page.until(f"{FOCUS} === {button('Conversations') if leave == 'Escape' else MESSAGE}")
    press(page, "Conversations")
    page.until(button("Close conversations"))
    page.click(MESSAGE)
    page.until("getComputedStyle(document.querySelector('.side')).visibility === 'hidden'")
    page.resize(1280, 800)


def test_the_state_of_the_tunnel_closes_with_escape_and_a_press_elsewhere(
    page: Page, site: str, invite: Invite
) -> None:
    panel, summary = "document.querySelector('.status')", "document.querySelector('.status summary')"
    enter(page, site, invite)
    assert "Direct" in page.js(f"{summary}.textContent") and "State of the tunnel" in page.js(f"{summary}.textContent")
    page.click(summary)
    page.until(f"{panel}.open")
    page.press("Escape")
    page.until(f"!{panel}.open && {FOCUS} === {summary}")
    page.click(summary)
    page.until(f"{panel}.open")
    page.click(MESSAGE)
    page.until(f"!{panel}.open")


def test_thoughts_that_a_person_opens_stay_open(page: Page, site: str, invite: Invite, upstream: Upstream) -> None:
    enter(page, site, invite)
    ask(page, "Ponder")
    page.until(f"{LAST}.querySelector('summary').checkVisibility()")
    page.click(f"{LAST}.querySelector('summary')")
    upstream.acknowledge()
    page.until(IDLE)
    assert page.js(f"{LAST}.querySelector('details').open") is True
    assert prose(page) == "Done."


def test_lists_keep_their_numbers_and_columns_their_alignment(
    page: Page, site: str, invite: Invite, upstream: Upstream
) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Prose")
    assert page.js(f"[...{LAST}.querySelectorAll('ol')].map(each => each.start)") == [1, 3]
    assert page.js(f"[...{LAST}.querySelectorAll('td')].map(each => each.align)") == ["", "right"]
    assert page.js(f"getComputedStyle({LAST}.querySelectorAll('td')[1]).textAlign").endswith("right")


def test_only_the_log_scrolls(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    page.resize(1280, 400)
    for text in ("Prose", "Prose again"):
        ask_and_wait(page, text)
    fits = "(({scrollHeight, clientHeight}) => scrollHeight <= clientHeight)"
    assert page.js(f"[...document.querySelectorAll('.log, .place, .page')].map({fits})") == [True, True, False]
    page.resize(1280, 800)


def test_a_conversation_that_is_kept_just_now_counts_once(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Hello")
    page.js(f"document.querySelector('#keep').click(); {button('Disconnect')}.click()")
    page.until("document.querySelector('dialog')")
    assert "One conversation is kept" in page.js("document.querySelector('dialog').innerText")
    press(page, "Delete and disconnect")
    page.until("document.querySelector('#code')")


def test_a_policy_that_permits_only_inference_leaves_the_chat(
    processes: Processes, page: Page, site: str, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    serve(processes, invite, upstream.url, "--policy", "openai")
    enter(page, site, invite)
    assert not page.js("document.querySelector('iframe')")
    ask_and_wait(page, "Hello")
    assert prose(page) == "You said: Hello"


def test_a_policy_that_permits_no_list_of_models_is_said(
    processes: Processes, page: Page, site: str, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    serve(processes, invite, upstream.url, "--allow", "POST /v1/chat/completions")
    page.open(f"{site}#{invite.code}")
    page.until("document.querySelector('.card.error')")
    told = page.js("document.querySelector('.card').innerText")
    assert "GET /v1/models is not allowed by serve's --allow. Ask the person who runs serve to allow it." in told
