"""The chat in Chromium, with real processes: the page of ``llmtunnel web``, a signal server, serve, a model server."""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from llmtunnel.invite import Invite

from ..support.browser import BROWSERS, Page, browser
from ..support.chromium import ChromiumPage
from ..support.ports import free_port
from ..support.processes import Process, Processes, Signal
from ..support.raw_server import reply
from ..support.upstream import Upstream, wait_until
from .model_server import asked, json_reply, model_server, models

WORDS = "tulip-mango-onion-cedar-fruit"
MESSAGE = "document.querySelector('textarea[aria-label=Message]')"
MODEL = "document.querySelector('select[aria-label=Model]')"
LAST = "[...document.querySelectorAll('article')].at(-1)"
IDLE = "!document.querySelector('[aria-label=Send]').hidden"
START = "document.querySelector('#code')"
rooms = count(4_821_309)


@pytest.fixture(scope="module")
def site(lasting: Processes) -> str:
    """Address of the page."""
    web = lasting.start("-m", "llmtunnel", "web", "--listen", "127.0.0.1:0", name="web")
    return web.wait_line(r"page on (http://localhost:\d+/)")[1]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with model_server() as server:
        yield server


@pytest.fixture(autouse=True)
def forget(upstream: Upstream) -> None:
    upstream.answers.clear()
    upstream.answers[b"/v1/models"] = models("small", "large")
    upstream.requests.clear()


@pytest.fixture(scope="module", params=BROWSERS)
def window(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser"), kind=request.param) as page:
        page.resize(1280, 800)
        yield page


@pytest.fixture
def page(window: Page, site: str) -> Iterator[Page]:
    """The page as a new tab has it; no console error and no violation of its policy at the end."""
    window.open("about:blank")
    window.problems.clear()
    yield window
    assert window.problems == []
    window.open(f"{site}site.json")  # the page's origin, without the page
    window.until("document.contentType === 'application/json'")
    window.js("indexedDB.databases().then(all => all.forEach(({name}) => indexedDB.deleteDatabase(name)))")


def new_invite(signal: Signal) -> Invite:
    return Invite(room=f"invite-{next(rooms)}", secret=WORDS, signal=signal.url)


def serve(started: Processes, invite: Invite, upstream: str, *flags: str) -> Process:
    return started.serve(invite.room, upstream, invite.signal, "--secret", invite.secret, *flags)


@pytest.fixture(scope="module")
def invite(lasting: Processes, signal: Signal, upstream: Upstream) -> Invite:
    """That of a serve which no test stops."""
    made = new_invite(signal)
    serve(lasting, made, upstream.url)
    return made


def enter(page: Page, site: str, invite: Invite) -> None:
    """Open the link, and wait for the chat."""
    page.open(f"{site}#{invite.code}")
    page.until(f"{MESSAGE} && {MODEL}.options.length")


def write(page: Page, text: str) -> None:
    page.js(f"{MESSAGE}.focus()")
    page.type(text)


def ask(page: Page, text: str) -> None:
    write(page, text)
    page.press("Enter")


def ask_and_wait(page: Page, text: str) -> None:
    number = page.js("document.querySelectorAll('article').length")
    ask(page, text)
    page.until(f"document.querySelectorAll('article').length === {number + 2} && {IDLE}")


def prose(page: Page) -> str:
    return str(page.js(f"[...{LAST}.querySelectorAll('.prose')].map(each => each.innerText).join('').trim()"))


def button(name: str) -> str:
    return (
        "[...document.querySelectorAll('button')].findLast(each => each.checkVisibility() &&"
        f" (each.ariaLabel ?? each.innerText.trim()) === {json.dumps(name)})"
    )


def press(page: Page, name: str) -> None:
    page.until(button(name))
    page.click(button(name))


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def card(page: Page) -> Any:
    return page.js("document.querySelector('.card')?.innerText ?? ''")


def test_the_code_leaves_the_address_bar_and_the_history(page: Page, site: str, invite: Invite) -> None:
    before = page.js("history.length")
    enter(page, site, invite)
    assert page.js("location.href") == site
    assert page.js("history.length") == before + 1
    assert page.js("history.state") is None
    if isinstance(page, ChromiumPage):
        entries = page.call("Page.getNavigationHistory")["entries"]
        assert not any(WORDS in entry["url"] for entry in entries)
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, name, history.state])"
    assert WORDS not in page.js(kept) and WORDS not in page.js("document.documentElement.outerHTML")


def test_an_answer_comes_word_by_word(page: Page, site: str, invite: Invite, upstream: Upstream) -> None:
    enter(page, site, invite)
    ask(page, "Steps please")
    page.until(button("Stop"))
    for words in ("one", "one two", "one two three"):
        upstream.acknowledge()
        page.until(f"{LAST}.innerText.includes({json.dumps(words)})")
        assert not page.js(IDLE)
    upstream.acknowledge()
    page.until(IDLE)
    assert prose(page) == "one two three"
    assert re.search(r"tokens/s · first token after .* · 42 tokens", page.js(f"{LAST}.innerText"))
    [question] = asked(upstream)
    assert question["messages"] == [{"role": "user", "content": "Steps please"}]
    assert (question["model"], question["stream"], "temperature" in question) == ("small", True, False)
    assert page.js("document.querySelector('[role=status].hidden').textContent") == "The answer is complete."
    assert page.js(f"document.activeElement === {MESSAGE}")


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop_cancels_at_the_model_server(page: Page, site: str, invite: Invite, upstream: Upstream, how: str) -> None:
    enter(page, site, invite)
    ask(page, "Endless")
    page.until(f"{LAST}.innerText.includes('more more')")
    if how == "button":
        press(page, "Stop")
    else:
        page.press("Escape")
    page.until(IDLE)
    wait_until(lambda: upstream.requests[-1].left is not None, "the model server to see its client leave")
    assert "You stopped this answer." in page.js(f"{LAST}.innerText")
    assert prose(page).startswith("more more")
    ask_and_wait(page, "Go on")
    assert [each["role"] for each in asked(upstream)[-1]["messages"]] == ["user", "assistant", "user"]


def test_the_toy_answers(processes: Processes, page: Page, site: str, signal: Signal) -> None:
    toy = processes.start("-m", "llmtunnel", "toy", "--listen", "127.0.0.1:0", "--json", name="toy")
    invite = new_invite(signal)
    serve(processes, invite, toy.wait_event("listening")["url"])
    enter(page, site, invite)
    ask(page, "naïve 🙂?")
    page.until(f"{LAST}.innerText.includes('I am a toy')")
    assert not page.js(IDLE), "it comes token by token"
    page.until(IDLE)
    assert prose(page).endswith("You asked: naïve 🙂?")


def test_an_answer_that_breaks_off_says_so_and_keeps_what_came(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Cut")
    assert prose(page) == "The half of an answ"
    assert page.js(f"{LAST}.querySelector('.note.incomplete').innerText").startswith("This answer is incomplete. ")
    ask_and_wait(page, "Early")
    assert page.js(f"{LAST}.querySelector('.note').innerText").startswith("This answer is incomplete: ")


def test_an_error_of_the_model_server_is_said_and_the_question_can_be_asked_again(
    page: Page, site: str, invite: Invite, upstream: Upstream
) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Refuse")
    assert page.js(f"{LAST}.querySelector('.note').innerText") == "The model is too small for that."
    press(page, "Edit message")
    page.js(f"{MESSAGE}.value = ''")
    ask(page, "Be kind")
    page.until(f"{LAST}.innerText.includes('You said: Be kind') && {IDLE}")
    assert page.js("document.querySelectorAll('article').length") == 2
    press(page, "Regenerate")
    page.until(f"{IDLE} && document.querySelectorAll('article').length === 2")
    wait_until(lambda: len(asked(upstream)) == 3, "the question to come again")
    assert asked(upstream)[1]["messages"] == asked(upstream)[2]["messages"] == [{"role": "user", "content": "Be kind"}]


@pytest.mark.parametrize("how", ["hard", "aloud"])
def test_thoughts_are_folded(page: Page, site: str, invite: Invite, how: str) -> None:
    enter(page, site, invite)
    ask_and_wait(page, f"Think {how}")
    assert page.js(f"{LAST}.querySelector('details').open") is False
    assert page.js(f"{LAST}.querySelector('details').textContent") == "ThoughtsLet me see. "
    assert prose(page) == f"You said: Think {how}"


def test_what_a_model_writes_cannot_act(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Attack")
    found = (
        f"{LAST}.querySelectorAll('script, img, svg:not(.icon), iframe, form, style, input, [style], [id], [onclick]')"
    )
    assert page.js(f"[...{found}].map(each => each.outerHTML)") == []
    assert page.js("window.attacked ?? null") is None
    links = page.js(
        f"[...{LAST}.querySelectorAll('a')].map(each => [each.getAttribute('href'), each.target, each.rel])"
    )
    hrefs = [href for href, *_ in links if href is not None]
    assert hrefs == ["https://fine.invalid/a?b=1&c=2", "https://evil.invalid/seen.png?who", "https://auto.invalid/"]
    assert all(rest == ["_blank", "noopener noreferrer"] for _, *rest in links)
    assert page.js(f"{LAST}.querySelector('sub').textContent") == "small"
    text = page.js(f"{LAST}.innerText")
    assert '<img src="x"' in text and "<p>in code</p>" in text
    assert page.js("[...performance.getEntriesByType('resource')].some(each => each.name.includes('invalid'))") is False


def test_markdown_has_code_to_copy(page: Page, site: str, invite: Invite) -> None:
    chromium = page if isinstance(page, ChromiumPage) else None
    if chromium:
        chromium.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    enter(page, site, invite)
    ask_and_wait(page, "Prose")
    assert page.js(f"{LAST}.querySelector('h2').textContent") == "A heading"
    assert page.js(f"{LAST}.querySelectorAll('ol li, td').length") == 5
    assert page.js(f"{LAST}.querySelector('figcaption span').textContent") == "python"
    press(page, "Copy code")
    page.until(f"{LAST}.querySelector('.copy').innerText === 'Copied'")
    assert not chromium or page.js("navigator.clipboard.readText()").startswith("def greet(name):\n    return")


def test_a_long_answer_is_drawn_in_parts_and_ends_as_one(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Long")
    assert page.js(f"{LAST}.querySelectorAll('p').length") == 1000
    assert prose(page).endswith("Sentence 2999 of a long answer.")
    log = "document.querySelector('.log')"
    page.until(f"{log}.scrollHeight - {log}.scrollTop - {log}.clientHeight < 4")


def test_answers_that_are_too_deep_or_too_long_do_no_harm(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Deep")
    assert page.js(f"{LAST}.innerText.includes('x')")
    ask_and_wait(page, "Huge")
    assert "This answer is incomplete. It is longer than 1000000 characters." in page.js(f"{LAST}.innerText")


def test_an_edit_can_be_cancelled(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Hello")
    press(page, "Edit message")
    page.until(f"{MESSAGE}.value === 'Hello'")
    page.press("Escape")
    assert page.js(f"{MESSAGE}.value") == ""
    ask_and_wait(page, "More")
    assert page.js("document.querySelectorAll('article').length") == 4


def test_an_answer_that_a_reload_cuts_is_kept_as_far_as_it_came(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    page.click("document.querySelector('#keep')")
    page.until("document.querySelector('#keep').checked")
    ask(page, "Endless")
    page.until(f"{LAST}.innerText.includes('more more')")
    press(page, "Disconnect")
    press(page, "Keep and disconnect")
    page.until(START)
    enter(page, site + "?again", invite)
    page.until("document.querySelector('.side li .title')")
    page.click("document.querySelector('.side li .title')")
    page.until(f"{LAST}.innerText.includes('You stopped this answer.')")
    assert prose(page).startswith("more more")


def test_who_scrolls_up_is_left_there(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Long")
    log = "document.querySelector('.log')"
    ask(page, "Endless")
    page.until(f"{LAST}.innerText.includes('more more')")
    page.js(f"{log}.scrollTop = 100")
    drawn = page.js(f"{LAST}.innerText.length")
    page.until(f"{LAST}.innerText.length > {drawn + 20}")
    assert page.js(f"{log}.scrollTop") == 100
    press(page, "Stop")
    page.until(IDLE)
    assert page.js(f"{log}.scrollTop") == 100


def test_a_page_that_comes_back_after_it_was_left_connects_again(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    ask(page, "Endless")
    page.until(f"{LAST}.innerText.includes('more more')")
    page.js("dispatchEvent(new Event('pagehide'))")  # as before a browser keeps the page for "Back"
    page.until(f"{IDLE} && {LAST}.innerText.includes('This answer is incomplete.')")
    page.until("!document.querySelector('.banner').checkVisibility()")
    ask_and_wait(page, "Hello")
    assert prose(page) == "You said: Hello"


def test_settings_are_sent(page: Page, site: str, invite: Invite, upstream: Upstream) -> None:
    enter(page, site, invite)
    page.js(f"{MODEL}.value = 'large'; {MODEL}.dispatchEvent(new Event('change'))")
    press(page, "Chat settings")
    page.js("document.querySelector('#system').focus()")
    page.type("Be brief.")
    page.js("document.querySelector('#temperature').focus()")
    page.type("0.3")
    page.js("document.querySelector('#key').focus()")
    page.type("sesame")
    press(page, "Save")
    wait_until(lambda: upstream.requests[-1].values(b"authorization") == [b"Bearer sesame"], "the key to be used")
    ask_and_wait(page, "Hello")
    [question] = asked(upstream)
    assert (question["model"], question["temperature"]) == ("large", 0.3)
    assert question["messages"][0] == {"role": "system", "content": "Be brief."}
    assert upstream.requests[-1].values(b"authorization") == [b"Bearer sesame"]


def test_a_model_server_with_a_key_is_a_chat_that_asks_for_it(
    page: Page, site: str, invite: Invite, upstream: Upstream
) -> None:
    upstream.answers[b"/"] = json_reply({"detail": "no"}, "404 Not Found")
    upstream.answers[b"/v1/models"] = json_reply({"error": {"message": "Invalid API key"}}, "401 Unauthorized")
    page.open(f"{site}#{invite.code}")
    page.until(MESSAGE)
    told = page.js("document.body.innerText")
    assert "Invalid API key. Enter the model server's API key in the chat's settings." in told
    assert "ollama pull" not in told
    upstream.answers[b"/v1/models"] = models("secret")
    press(page, "Chat settings")
    page.js("document.querySelector('#key').focus()")
    page.type("sesame")
    press(page, "Save")
    page.until(f"{MODEL}.value === 'secret'")


def test_images_are_made_small_and_sent(
    page: Page, site: str, invite: Invite, upstream: Upstream, tmp_path: Path
) -> None:
    (tmp_path / "small.png").write_bytes(png(20, 10))
    (tmp_path / "large.png").write_bytes(png(4000, 2000))
    (tmp_path / "none.png").write_bytes(b"no image")
    enter(page, site, invite)
    page.attach("document.querySelector('input[type=file]')", *(tmp_path / each for each in ("small.png", "large.png")))
    page.until("document.querySelectorAll('.preview').length === 2")
    page.attach("document.querySelector('input[type=file]')", tmp_path / "none.png")
    page.until("document.querySelector('.problem').textContent.startsWith('none.png: not an image')")
    ask_and_wait(page, "What is this?")
    content = asked(upstream)[0]["messages"][0]["content"]
    assert [each["type"] for each in content] == ["text", "image_url", "image_url"]
    urls = [each["image_url"]["url"] for each in content[1:]]
    assert base64.b64decode(urls[0].removeprefix("data:image/png;base64,")) == png(20, 10)
    assert urls[1].startswith("data:image/jpeg;base64,")
    sizes = page.js(
        "[...document.querySelectorAll('article img')].map(each => [each.naturalWidth, each.naturalHeight])"
    )
    assert sizes == [[20, 10], [1536, 768]]


def test_conversations_are_kept_only_if_the_person_says_so(
    page: Page, site: str, invite: Invite, upstream: Upstream
) -> None:
    databases = "indexedDB.databases().then(all => all.map(({name}) => name).filter(name => name === 'llmtunnel-chat'))"
    enter(page, site, invite)
    ask_and_wait(page, "Remember me")
    assert page.js(databases) == []
    page.click("document.querySelector('#keep')")
    page.until("document.querySelector('#keep').checked")
    ask_and_wait(page, "And this")
    enter(page, site + "?again", invite)
    page.until("document.querySelector('.side li')")
    assert page.js("document.querySelectorAll('article').length") == 0, "a new conversation is open"
    page.click("document.querySelector('.side li .title')")
    page.until("document.querySelectorAll('article').length === 4")
    assert prose(page) == "You said: And this"
    ask_and_wait(page, "Once more")
    assert len(asked(upstream)[-1]["messages"]) == 5
    press(page, "Delete: Remember me")
    press(page, "Delete")
    page.until("!document.querySelector('.side li')")
    page.click("document.querySelector('#keep')")
    page.until("!document.querySelector('#keep').checked")
    assert page.js(databases) == []


@pytest.mark.parametrize(("answer", "left"), [("Keep and disconnect", 1), ("Delete and disconnect", 0)])
def test_disconnect_asks_whether_what_is_kept_stays(
    page: Page, site: str, invite: Invite, answer: str, left: int
) -> None:
    enter(page, site, invite)
    page.click("document.querySelector('#keep')")
    ask_and_wait(page, "Remember me")
    press(page, "Disconnect")
    page.until("document.querySelector('dialog')")
    assert "One conversation is kept on this device." in page.js("document.querySelector('dialog').innerText")
    press(page, answer)
    page.until(START)
    enter(page, site + "?again", invite)
    page.until(f"document.querySelector('#keep').checked === {json.dumps(bool(left))}")
    assert page.js("document.querySelectorAll('.side li').length") == left


def test_disconnect_forgets_the_tunnel(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Forget me")
    press(page, "Disconnect")
    page.until(START)
    assert page.js(f"{START}.value") == ""
    assert "Forget me" not in page.js("document.documentElement.outerHTML")


def test_closing_the_page_asks_only_while_an_answer_runs(page: Page, site: str, invite: Invite) -> None:
    asks = "!dispatchEvent(new Event('beforeunload', {cancelable: true}))"
    enter(page, site, invite)
    assert page.js(asks) is False
    ask(page, "Endless")
    page.until(f"{LAST}.innerText.includes('more')")
    assert page.js(asks) is True
    press(page, "Stop")
    page.until(IDLE)
    assert page.js(asks) is False


def test_serve_knows_the_page_after_a_reload_until_it_disconnects(
    processes: Processes, page: Page, site: str, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    serve(processes, invite, upstream.url, "--once")
    for again in ("", "?again"):
        enter(page, site + again, invite)
    press(page, "Disconnect")
    page.until(START)
    page.open(f"{site}?more#{invite.code}")
    page.until("document.querySelector('.card.error')")
    assert card(page).startswith("The other side does not let this page in\n")


def test_a_code_is_typed_with_completion_and_slips(page: Page, site: str, invite: Invite) -> None:
    page.open(site)
    page.until(START)
    page.js(f"{START}.focus()")
    page.type(f"{invite.room.removeprefix('invite-')} tul")
    page.until(button("tulip"))
    page.press("Tab")
    assert page.js(f"{START}.value").endswith(" tulip-")
    page.type("man")
    press(page, "mango")
    page.type(f"onoin sedar fruit@{invite.signal}")
    page.press("Enter")
    page.until(MESSAGE)


def test_a_code_that_is_none_is_explained(page: Page, site: str) -> None:
    page.open(f"{site}#4821309-tulip-mango-onion-cedar-fruxxx")
    page.until(START)
    assert "'fruxxx' (word 5) is not a code word. " in page.js("document.querySelector('.problem').textContent")
    assert page.js("location.href") == site


def test_a_wrong_code_is_said_and_another_can_be_entered(page: Page, site: str, invite: Invite) -> None:
    wrong = Invite(room=invite.room, secret="mango-mango-onion-cedar-fruit", signal=invite.signal)
    page.open(f"{site}#{wrong.code}")
    page.until("document.querySelector('.card.error')")
    assert card(page).startswith("This code does not work\n")
    assert "Wrong code: it does not match the one that serve shows." in card(page)
    press(page, "Enter another code")
    page.until(START)
    page.js(f"{START}.focus()")
    page.type(invite.code)
    page.press("Enter")
    page.until(MESSAGE)


def test_a_code_that_has_expired_is_said(
    processes: Processes, page: Page, site: str, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    process = serve(processes, invite, upstream.url, "--expires", "1s")
    process.wait_event("waiting")
    joined = time.monotonic()
    wait_until(lambda: time.monotonic() > joined + 1.2, "the code to expire")
    page.open(f"{site}#{invite.code}")
    page.until("document.querySelector('.card.error')")
    assert "The code has expired." in card(page)
    assert "Ask the person who runs serve for a new code." in card(page)


def test_serve_that_comes_later_stops_and_comes_again(
    processes: Processes, page: Page, site: str, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    page.open(f"{site}#{invite.code}")
    page.until("document.querySelector('.card')?.innerText.includes('Waiting for the other side')")
    first = serve(processes, invite, upstream.url)
    page.until(MESSAGE)
    ask_and_wait(page, "Hello")
    first.stop()
    page.until("document.querySelector('.banner').checkVisibility()")
    page.until("document.querySelector('.banner').innerText.includes('The other side has stopped.')")
    assert page.js("document.querySelectorAll('article').length") == 2, "the conversation stays"
    serve(processes, invite, upstream.url)
    page.until("!document.querySelector('.banner').checkVisibility()")
    ask_and_wait(page, "Hello again")
    assert len(asked(upstream)[-1]["messages"]) == 3


def test_a_signal_server_that_is_not_there_is_said(page: Page, site: str) -> None:
    page.open(f"{site}#4821309-{WORDS}@ws://127.0.0.1:9")
    page.until("document.querySelector('.card.warning')")
    assert card(page).startswith("The signal server does not answer\n")
    press(page, "Disconnect")
    page.until(START)
    page.problems.clear()  # the browser says in its console that nobody listens there


def test_a_conversation_outlives_a_serve_with_another_code(
    processes: Processes, page: Page, site: str, signal: Signal, upstream: Upstream
) -> None:
    first, second = new_invite(signal), new_invite(signal)
    process = serve(processes, first, upstream.url)
    serve(processes, second, upstream.url)
    enter(page, site, first)
    ask_and_wait(page, "Hello")
    process.stop()
    serve(processes, first, upstream.url, "--secret", "mango-mango-onion-cedar-fruit")
    page.until("document.querySelector('.banner.error')?.checkVisibility()")
    assert page.js("document.querySelectorAll('article').length") == 2
    press(page, "Enter another code")
    page.until(START)
    page.js(f"{START}.focus()")
    page.type(second.code)
    page.press("Enter")
    page.until("document.querySelectorAll('article').length === 2")
    ask_and_wait(page, "Hello again")
    assert len(asked(upstream)[-1]["messages"]) == 3


def test_a_private_signal_server_is_given_a_token(
    processes: Processes, page: Page, site: str, upstream: Upstream
) -> None:
    invite = new_invite(processes.signal("--access-token", "only-for-friends"))
    serve(processes, invite, upstream.url, "--signal-token", "only-for-friends")
    page.open(f"{site}#{invite.code}")
    page.until("document.querySelector('.card.error')")
    assert card(page).startswith("The signal server is private\n")
    press(page, "Enter an access token")
    page.until("document.activeElement.id === 'access'")
    page.type("only-for-friends")
    page.press("Enter")
    page.until(MESSAGE)


def test_another_link_in_the_same_tab_asks_first(page: Page, site: str, invite: Invite, signal: Signal) -> None:
    enter(page, site, invite)
    other = new_invite(signal)
    page.js(f"location.hash = {json.dumps(other.code)}")
    page.until("document.querySelector('dialog')")
    assert page.js("location.href") == site
    press(page, "Stay here")
    page.until("!document.querySelector('dialog')")
    ask_and_wait(page, "Still here")
    page.js(f"location.hash = {json.dumps(other.code)}")
    press(page, "Open the other tunnel")
    page.until("document.querySelector('.card')?.innerText.includes('Waiting for the other side')")


def test_an_upstream_that_is_neither_is_said(page: Page, site: str, invite: Invite, upstream: Upstream) -> None:
    upstream.answers[b"/v1/models"] = reply(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
    page.open(f"{site}#{invite.code}")
    page.until("document.querySelector('.card.error')")
    assert "HTTP status 200, without a web page" in card(page)
    upstream.answers[b"/v1/models"] = models("late")
    press(page, "Try again")
    page.until(f"{MODEL}?.value === 'late'")


def test_a_page_that_was_not_loaded_securely_says_so(site: str, tmp_path: Path) -> None:
    with browser(tmp_path, "--host-resolver-rules=MAP page.test 127.0.0.1") as page:
        page.open(f"{site.replace('localhost', 'page.test')}#4821309-{WORDS}")
        page.until("document.querySelector('.card.error')")
        assert card(page).startswith("This page was not loaded securely\n")
        assert WORDS not in page.js("location.href") and not page.js("document.querySelector('button')")


def test_a_static_host_serves_the_chat(processes: Processes, page: Page, invite: Invite, tmp_path: Path) -> None:
    written = processes.start("-m", "llmtunnel", "web", "--export", str(tmp_path / "chat"), name="export")
    assert written.wait_exit() == 0
    port = free_port()
    listen = (str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path))
    processes.start("-m", "http.server", *listen, name="files", foreign=True)
    wait_until(lambda: answers(port), "the files to be served")
    enter(page, f"http://127.0.0.1:{port}/chat/", invite)
    ask_and_wait(page, "Hello")
    assert prose(page) == "You said: Hello"


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, site: str, invite: Invite, width: int) -> None:
    page.resize(width, 740)
    fits = (
        "document.documentElement.scrollWidth <= innerWidth && document.querySelector('.log').scrollWidth <= innerWidth"
    )
    enter(page, site, invite)
    ask_and_wait(page, f"Prose {'very' * 200}")
    assert page.js(fits)
    page.js("document.querySelector('.status').open = true")
    box = page.js(
        "(({left, right}) => [left, right])(document.querySelector('.status .panel').getBoundingClientRect())"
    )
    assert box[0] >= 0 and box[1] <= width
    page.resize(1280, 800)


def test_each_control_has_a_name(page: Page, site: str, invite: Invite) -> None:
    enter(page, site, invite)
    ask_and_wait(page, "Prose")
    named = "(each.ariaLabel || each.labels?.[0]?.innerText || each.innerText).trim()"
    shown = "[...document.querySelectorAll('button, input, select, textarea')].filter(each => each.checkVisibility())"
    assert page.js(f"{shown}.filter(each => !{named}).map(each => each.outerHTML)") == []
    if isinstance(page, ChromiumPage):
        assert_names(page)


def assert_names(page: ChromiumPage) -> None:
    """What the browser tells a screen reader."""
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node.get("ignored") and "role" in node
    ]
    controls = [each for each in named if each[0] in ("button", "textbox", "combobox", "switch", "article")]
    assert all(name for _, name in controls), controls
    for expected in (("textbox", "Message"), ("button", "Send"), ("button", "Disconnect"), ("combobox", "Model")):
        assert expected in controls
    assert [each for each in controls if each[0] == "article"] == [("article", "You"), ("article", "small")]


def png(width: int, height: int) -> bytes:
    """A picture in one colour."""
    rows = (b"\0" + b"\x20\x80\x40" * width) * height

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
