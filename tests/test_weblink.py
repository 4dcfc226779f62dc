"""The link that a browser opens, and the pages that it may lead to."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest

from llmtunnel.config import ServeOptions, ServeSettings
from llmtunnel.errors import SettingError
from llmtunnel.invite import DEFAULT_SIGNAL, EXAMPLE, Invite
from llmtunnel.meeting import Meeting
from llmtunnel.weblink import SIGNAL, link, page_of, page_url, reaches, read_page


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("https://tunnel.example.org", "https://tunnel.example.org/"),
        ("https://Tunnel.example.org/", "https://tunnel.example.org/"),
        ("https://example.org/My/page", "https://example.org/My/page/"),
        ("https://example.org/chat/index.html", "https://example.org/chat/"),
        ("https://example.org/index.html", "https://example.org/"),
        ("http://localhost:8001", "http://localhost:8001/"),
        ("http://x.localhost:8001/", "http://x.localhost:8001/"),
        ("http://127.0.0.1:8001", "http://127.0.0.1:8001/"),
        ("http://[::1]:8001", "http://[::1]:8001/"),
    ],
)
def test_a_page_has_a_slash_at_its_end(text: str, page: str) -> None:
    assert page_url(text) == read_page(text) == page


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://example.com", "only over https"),
        ("http://10.0.0.2:8001", "only over https"),
        ("http://localhost.example.com", "only over https"),
        ("https://user:hunter2@example.com", "no user name and password"),
        ("https://example.com/#hunter2", "no query and no fragment"),
        ("https://example.com/?code=hunter2", "no query and no fragment"),
        *(
            (text, "not a page's URL")
            for text in ("example.com", "ftp://a", "https://", "https://a:99999", "https://[", "https://a b")
        ),
    ],
)
def test_what_is_no_page_is_refused_and_no_secret_repeated(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        read_page(text)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"), [("1", SIGNAL), ("on", SIGNAL), ("signal", SIGNAL), ("0", None), ("no", None)]
)
def test_a_variable_may_also_say_yes_or_no(text: str, value: str | None) -> None:
    assert read_page(text) == value


@pytest.mark.parametrize(
    ("signal", "page"),
    [
        ("wss://signal.example.org", "https://signal.example.org/"),
        ("wss://signal.example.org:8443/a/b?c", "https://signal.example.org:8443/a/b/"),
        ("ws://localhost:8787", "http://localhost:8787/"),
        ("ws://127.0.0.1:8787", "http://127.0.0.1:8787/"),
    ],
)
def test_the_signal_servers_page_is_at_the_same_place(signal: str, page: str) -> None:
    assert page_of(signal) == page


@pytest.mark.parametrize("signal", ["wss://signal.example.org", "ws://10.0.0.2:8787/a%20b", "ws://[fe80::1]:8787"])
def test_the_page_reads_the_code_from_the_fragment(signal: str) -> None:
    invite = Invite.parse(f"{EXAMPLE}@{signal}")
    made = urlsplit(link("https://page.example/", invite))
    assert (made.netloc, made.path, made.query) == ("page.example", "/", "")
    assert Invite.parse(unquote(made.fragment)) == invite


def test_the_link_names_the_default_signal_server_since_the_page_may_have_another_default() -> None:
    invite = Invite.parse(EXAMPLE)
    made = link("https://page.example/", invite)
    assert made.endswith(f"#{EXAMPLE}@{DEFAULT_SIGNAL.removeprefix('wss://')}")
    assert Invite.parse(urlsplit(made).fragment) == invite


def test_a_page_over_https_needs_a_signal_server_with_tls() -> None:
    assert reaches("https://p/", "wss://s") and reaches("https://p/", "ws://127.0.0.1:1")
    assert reaches("http://localhost/", "ws://10.0.0.2:8787")
    assert not reaches("https://p/", "ws://10.0.0.2:8787")


def settings(signal: str = "wss://signal.example.org", **more: object) -> ServeSettings:
    options = ServeOptions(invite=f"{EXAMPLE}@{signal}", upstream="http://localhost:1", **more)  # type: ignore[arg-type]
    meeting = options.meeting()
    assert meeting is not None
    return options.settings(meeting)


def test_the_page_of_the_settings() -> None:
    assert settings().page is None
    assert settings(web=False).web is None
    assert settings(web=True).page == "https://signal.example.org/"
    assert settings(web="https://p").page == "https://p/"


def test_a_link_that_no_browser_could_use_is_refused() -> None:
    with pytest.raises(SettingError, match="only over https") as refused:
        settings("ws://10.0.0.2:8787", web=True)
    assert "llmtunnel web" in refused.value.hint
    with pytest.raises(SettingError, match="cannot use the signal server ws://10"):
        settings("ws://10.0.0.2:8787", web="https://page.example")
    options = ServeOptions(room="r", secret="s", upstream="http://localhost:1", web=True)
    with pytest.raises(SettingError, match="a link contains a code"):
        options.settings(Meeting(room="r", secret="s"))
