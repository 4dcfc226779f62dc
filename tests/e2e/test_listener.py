"""Who may use the proxy, by real processes."""

from __future__ import annotations

import pytest

from .exchanges import request, sized
from .processes import Processes, Proxy, Signal, address_of
from .raw import fetch
from .upstream import Upstream

KEY = "k-4f9c2a7e-never-shown"


def proxy_of(processes: Processes, room: str, upstream: Upstream, signal: Signal, *flags: str, **environ: str) -> Proxy:
    """A proxy that has met its serve, and logs all it can."""
    processes.serve(room, upstream.url, signal.url)
    common = ("--room", room, "--signal", signal.url, "--stun", "none", "--json", "-vv", "--listen", "127.0.0.1:0")
    process = processes.start("-m", "llmtunnel", "proxy", *common, *flags, name="proxy", environ=environ)
    process.wait_event("ready")
    return Proxy(process, process.wait_event("listening")["url"])


def test_a_rebound_name_and_a_foreign_page_get_403_and_the_upstream_hears_nothing(
    processes: Processes, own_upstream: Upstream, signal: Signal
) -> None:
    proxy = proxy_of(processes, "guarded", own_upstream, signal)
    for refused in (
        request(b"GET", b"/", host=b"rebind.test"),
        request(b"GET", b"http://rebind.test/", host=b"localhost"),
        request(b"POST", b"/", b"Origin: https://evil.example", b"Content-Length: 0", host=b"localhost"),
        request(b"GET", b"/", b"Sec-Fetch-Site: cross-site", host=b"localhost"),
        request(b"GET", b"/", b"Origin: null", b"Connection: Upgrade", b"Upgrade: shout/1", host=b"localhost"),
    ):
        response = fetch(proxy.address, refused)
        assert response.status == 403
        assert b"--allow-" in response.body
    assert not own_upstream.requests
    assert fetch(proxy.address, request(b"GET", b"/", host=b"localhost")).body == b"ok"
    assert proxy.process.wait_event("request", status=403)["error"]


def test_with_a_key_only_who_sends_it_is_answered_and_it_is_shown_nowhere(
    processes: Processes, own_upstream: Upstream, signal: Signal
) -> None:
    proxy = proxy_of(processes, "keyed", own_upstream, signal, TUNNEL_API_KEY=KEY)

    def asked(*fields: bytes) -> int:
        return fetch(
            proxy.address, sized(b"POST", b"/", b"hi", *fields).replace(b"client.example", b"localhost")
        ).status

    assert asked() == 401
    assert asked(b"Authorization: Bearer sk-upstream") == 401
    assert not own_upstream.requests
    assert asked(b"Authorization: Bearer " + KEY.encode()) == 200
    assert asked(b"x-api-key: " + KEY.encode(), b"Authorization: Bearer sk-upstream") == 200
    first, second = own_upstream.requests
    assert (first.values(b"authorization"), first.values(b"x-api-key")) == ([], [])
    assert (second.values(b"authorization"), second.values(b"x-api-key")) == ([b"Bearer sk-upstream"], [])
    for process in processes.started:
        assert KEY not in "\n".join([*process.lines, *process.errors])


def test_an_address_that_others_reach_needs_a_key_or_no_auth(processes: Processes, signal: Signal) -> None:
    common = ("-m", "llmtunnel", "proxy", "--room", "open", "--signal", signal.url, "--stun", "none")
    refused = processes.start(*common, "--listen", "0.0.0.0:0", name="proxy")
    assert refused.wait_exit() == 2
    assert refused.wait_line("other machines could use the model")
    assert refused.wait_line("TUNNEL_API_KEY, --api-key-file or --api-key.*--no-auth")
    opened = processes.start(*common, "--json", "--listen", "0.0.0.0:0", "--no-auth", name="proxy")
    address = address_of(opened.wait_event("listening")["url"])
    assert fetch(address, b"GET / HTTP/1.1\r\nHost: rebind.test\r\n\r\n").status == 403
    keyed = processes.start(*common, "--json", "--listen", "0.0.0.0:0", name="proxy", environ={"TUNNEL_API_KEY": KEY})
    address = address_of(keyed.wait_event("listening")["url"])
    assert fetch(address, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").status == 401


@pytest.mark.parametrize("flags", [("--api-key", ""), ("--allow-origin", "null"), ("--api-key", KEY, "--no-auth")])
def test_flags_that_cannot_be_used_are_exit_2_and_show_no_key(processes: Processes, flags: tuple[str, ...]) -> None:
    process = processes.start("-m", "llmtunnel", "proxy", "--room", "r", *flags, name="proxy")
    assert process.wait_exit() == 2
    assert KEY not in "\n".join([*process.lines, *process.errors])
