"""From the code that serve shows to an answer at the proxy, between processes; and what a wrong code comes to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmtunnel.install import on_laptop
from llmtunnel.invite import Invite
from llmtunnel.session.carrier import NOT_PROVEN
from llmtunnel.words import WORDS

from ..support.exchanges import request
from ..support.processes import ROOT, Process, Processes, Proxy
from ..support.raw_client import fetch
from ..support.upstream import Upstream


def shown(serve: Process) -> Invite:
    """The invite that serve shows."""
    return Invite.parse(serve.wait_event("invite")["code"])


def with_another_word(invite: Invite) -> str:
    words = invite.secret.split("-")
    words[2] = next(word for word in WORDS if word != words[2])
    return Invite(room=invite.room, secret="-".join(words), signal=invite.signal).code


def answers(process: Process) -> bool:
    proxy = Proxy(process, process.wait_event("listening")["url"])
    process.wait_event("ready")
    return fetch(proxy.address, request(b"GET", b"/", host=b"localhost")).status == 200


@pytest.fixture
def serve(processes: Processes, own_upstream: Upstream) -> Process:
    """One that has made its invite."""
    return processes.command("serve", "--upstream", own_upstream.url, "--signal", processes.signal().url)


def test_the_code_that_serve_shows_is_all_that_a_proxy_needs(processes: Processes, serve: Process) -> None:
    told = serve.wait_event("invite")
    serve.wait_event("waiting")
    assert [event["event"] for event in serve.events[:2]] == ["invite", "signal-connected"]
    assert told["command"] == f"llmtunnel proxy {told['code']}"
    by_hand = told["code"].upper().split("-")
    proxies = [
        processes.command("proxy", *by_hand, "--listen", "127.0.0.1:0"),
        processes.command("proxy", "--listen", "127.0.0.1:0", TUNNEL_INVITE=told["code"]),
    ]
    assert all(answers(proxy) for proxy in proxies)
    assert serve.wait_event("peer-connected")["authenticated"]
    assert serve.count("invite") == 1
    assert not serve.errors, "an invite is nothing to warn of"


def test_people_are_shown_the_code_and_what_to_type(processes: Processes, own_upstream: Upstream) -> None:
    flags = ("--upstream", own_upstream.url, "--signal", processes.signal().url, "--once", "--expires", "8h")
    serve = processes.start("-m", "llmtunnel", "serve", *flags, name="serve")
    code = serve.wait_line(r"^invite: (\S+)$")[1]
    end = serve.wait_line(r"^on your laptop, run \((.*)\):$")[1]
    assert serve.wait_line(r"^llmtunnel proxy (\S+)$")[1] == code
    assert serve.wait_line("^uvx .*$")[0] == on_laptop(code).uvx
    assert end.startswith("for one proxy, until 20")


def test_serve_shows_a_link_only_when_its_user_has_asked_for_one(processes: Processes, own_upstream: Upstream) -> None:
    signal = processes.signal().url
    where = ("serve", "--upstream", own_upstream.url, "--signal", signal)
    assert processes.command(*where).wait_event("invite")["link"] is None
    told = processes.command(*where, "--web").wait_event("invite")
    page = signal.replace("ws://", "http://") + "/"
    assert told["link"] == f"{page}#{told['code']}"
    elsewhere = processes.command(*where, TUNNEL_WEB="http://localhost:1/chat").wait_event("invite")
    assert elsewhere["link"] == f"http://localhost:1/chat/#{elsewhere['code']}"


def test_people_are_shown_the_link_and_what_a_browser_may_keep(processes: Processes, own_upstream: Upstream) -> None:
    signal = processes.signal().url
    flags = ("-m", "llmtunnel", "serve", "--signal", signal, "--web", own_upstream.url.removeprefix("http://"))
    serve = processes.start(*flags, name="serve")
    code = serve.wait_line(r"^invite: (\S+)$")[1]
    assert serve.wait_line(r"^http://\S+/#(\S+)$")[1] == code
    serve.wait_line("^A browser may keep the link in its history")
    given = processes.start(*flags, name="given", environ={"TUNNEL_INVITE": Invite.generate(signal).code})
    assert given.wait_line("^link for a browser: (.*)$")[1] == f"{signal.replace('ws://', 'http://')}/#CODE"


def test_there_is_no_link_to_a_signal_server_without_a_page(processes: Processes, own_upstream: Upstream) -> None:
    signal = processes.signal("--no-web").url
    serve = processes.command("serve", "--upstream", own_upstream.url, "--signal", signal, "--web")
    assert serve.wait_event("invite")["link"] is None
    assert "serves no page" in serve.wait_event("error")["message"]


def test_a_wrong_word_ends_the_proxy_and_tells_both_and_the_right_one_comes_in_after_it(
    processes: Processes, serve: Process
) -> None:
    invite = shown(serve)
    stranger = processes.command("proxy", "--listen", "127.0.0.1:0", TUNNEL_INVITE=with_another_word(invite))
    assert stranger.wait_exit() == 3
    assert stranger.wait_event("error", hint=NOT_PROVEN)  # a slow machine may have failed otherwise before
    serve.wait_event("error")
    assert not serve.count("peer-connected")
    assert answers(processes.command("proxy", invite.code, "--listen", "127.0.0.1:0"))


def test_an_invite_made_ahead_is_used_again_and_not_shown(
    processes: Processes, own_upstream: Upstream, tmp_path: Path
) -> None:
    signal, file = processes.signal(), tmp_path / "code"
    with file.open("wb") as output:
        command = [sys.executable, "-m", "llmtunnel", "invite", "--signal", signal.url]
        subprocess.run(command, stdout=output, check=True, cwd=ROOT, timeout=30)
    given = ("--invite-file", str(file))
    for _ in range(2):
        serve = processes.command("serve", "--upstream", own_upstream.url, *given)
        proxy = processes.command("proxy", *given, "--listen", "127.0.0.1:0")
        assert answers(proxy)
        serve.stop()
        proxy.stop()
        assert not serve.count("invite")
    people = processes.start("-m", "llmtunnel", "serve", "--upstream", own_upstream.url, *given, name="serve")
    people.wait_line(r"^invite: invite-\d{7}, as passed to serve$")


def test_an_invite_for_one_proxy_lets_no_other_in(processes: Processes, own_upstream: Upstream) -> None:
    signal = processes.signal()
    serve = processes.command("serve", "--upstream", own_upstream.url, "--signal", signal.url, "--once")
    code = shown(serve).code
    first = processes.command("proxy", code, "--listen", "127.0.0.1:0")
    assert answers(first)
    second = processes.command("proxy", code, "--listen", "127.0.0.1:0")
    assert second.wait_exit() == 3
    second.wait_line('"error".*for one proxy')
    assert first.running


def test_a_room_alone_is_warned_of_in_one_line(processes: Processes, own_upstream: Upstream) -> None:
    signal = processes.signal()
    serve = processes.command("serve", "--upstream", own_upstream.url, "--room", "r", "--signal", signal.url)
    proxy = processes.command("proxy", "--room", "r", "--signal", signal.url, "--listen", "127.0.0.1:0")
    assert answers(proxy)
    for process in (serve, proxy):
        process.wait_line("^warning: A room without a secret")
        assert len(process.errors) == 1
    kept = processes.command(
        "proxy", "--room", "r", "--signal", signal.url, "--listen", "127.0.0.1:0", TUNNEL_SECRET="s"
    )
    kept.wait_line("^warning: The secret is short")
