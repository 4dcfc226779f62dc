"""Who may use the proxy, by real processes."""

from __future__ import annotations

import re

import pytest

from tests.endpoints.test_listen import has_ipv6

from ..support.exchanges import request, sized
from ..support.processes import Processes, Proxy, Signal, address_of
from ..support.raw_client import Response, fetch
from ..support.upstream import Upstream

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


def test_it_answers_to_every_name_of_this_machine_and_tells_what_to_call_instead_of_the_others(
    processes: Processes, own_upstream: Upstream, signal: Signal
) -> None:
    proxy = proxy_of(processes, "named", own_upstream, signal)
    port = proxy.address[1]
    for host in ("localhost", "jupyter.localhost", "Jupyter.Localhost.", "127.0.0.1", "127.3.2.1", "[::1]"):
        page = b"Origin: http://app.localhost:3000"
        assert fetch(proxy.address, request(b"GET", b"/", page, host=f"{host}:{port}".encode())).status == 200
    own_upstream.requests.clear()
    for host, usual in {
        "0.0.0.0": "127.0.0.1",
        "[::]": "[::1]",
        "[::ffff:127.0.0.1]": "127.0.0.1",
        "[::ffff:7f00:1]": "127.0.0.1",
        "127.1": "127.0.0.1",
    }.items():
        response = fetch(proxy.address, request(b"GET", b"/", host=f"{host}:{port}".encode()))
        assert response.status == 403
        assert f"Use {usual}:{port}." in response.body.decode()
    assert not own_upstream.requests


def test_with_a_key_a_page_of_this_machine_gets_its_preflight_answered_and_the_upstream_hears_nothing(
    processes: Processes, own_upstream: Upstream, signal: Signal
) -> None:
    proxy = proxy_of(processes, "preflight", own_upstream, signal, TUNNEL_API_KEY=KEY)

    def asked(origin: bytes, *fields: bytes, method: bytes = b"OPTIONS") -> Response:
        return fetch(proxy.address, request(method, b"/v1/models", b"Origin: " + origin, *fields, host=b"localhost"))

    asks = (b"Access-Control-Request-Method: GET", b"Access-Control-Request-Headers: authorization")
    answer = asked(b"http://localhost:3000", *asks)
    assert answer.status == 204
    assert answer.values(b"access-control-allow-origin") == [b"http://localhost:3000"]
    assert answer.values(b"access-control-allow-headers") == [b"authorization"]
    assert asked(b"https://evil.example", *asks).status == 403
    assert asked(b"http://localhost:3000").status == 401
    assert not own_upstream.requests
    answer = asked(b"http://localhost:3000", b"Authorization: Bearer " + KEY.encode(), method=b"GET")
    assert (answer.status, answer.values(b"access-control-allow-origin")) == (200, [b"http://localhost:3000"])


def test_an_application_or_any_page_can_be_allowed_and_the_latter_is_warned_of(
    processes: Processes, own_upstream: Upstream, signal: Signal
) -> None:
    apps = ("file://", "app://.", "vscode-webview://0m3v5d", "tauri://localhost")
    flags = [word for app in apps for word in ("--allow-origin", app)]
    proxy = proxy_of(processes, "apps", own_upstream, signal, *flags)
    for app in (*apps, "null"):
        response = fetch(proxy.address, request(b"GET", b"/", f"Origin: {app}".encode(), host=b"localhost"))
        assert response.status == (403 if app == "null" else 200)
    assert not [line for line in proxy.process.errors if "lets every web site use the proxy" in line]
    anyone = proxy_of(processes, "anyone", own_upstream, signal, "--allow-origin", "null")
    assert fetch(anyone.address, request(b"GET", b"/", b"Origin: null", host=b"localhost")).status == 200
    assert anyone.process.wait_line("warning.*--allow-origin null lets every web site use the proxy")


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_every_address_of_ipv6_is_every_address_of_ipv4_too(processes: Processes, signal: Signal) -> None:
    common = ("-m", "llmtunnel", "proxy", "--room", "both", "--signal", signal.url, "--stun", "none", "--json")
    proxy = processes.start(*common, "--listen", "[::]:0", "--no-auth", name="proxy")
    listening = proxy.wait_event("listening")
    port = address_of(listening["url"])[1]
    assert listening["url"] == f"http://127.0.0.1:{port}"
    assert listening["addresses"] == [f"[::]:{port}", f"0.0.0.0:{port}"]
    for host in ("127.0.0.1", "::1"):
        assert fetch((host, port), b"GET / HTTP/1.1\r\nHost: 0.0.0.0\r\n\r\n").status == 403
    toy = processes.start("-m", "llmtunnel", "toy", "--json", "--listen", "[::]:0", name="toy")
    listening = toy.wait_event("listening")
    port = address_of(listening["url"])[1]
    assert listening["addresses"] == [f"[::]:{port}", f"0.0.0.0:{port}"]
    for host in ("127.0.0.1", "::1"):
        assert fetch((host, port), b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status == 200


@pytest.mark.parametrize(("command", "port"), [("proxy", 8000), ("toy", 8900), ("signal", 8787)])
@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("::1", "[::1]")]
)
def test_a_host_alone_is_listened_on_at_the_usual_port(
    command: str, port: int, host: str, address: str, processes: Processes, signal: Signal
) -> None:
    where = ("--room", "usual", "--signal", signal.url, "--stun", "none") if command == "proxy" else ()
    process = processes.start("-m", "llmtunnel", command, *where, "--listen", host, name=command)
    # Another program of this machine may have the port, or the machine no IPv6: the address shows in any case.
    found = process.wait_line(rf"{re.escape(address)}:{port}|localhost:{port}")
    assert found


def test_an_address_that_others_reach_needs_a_key_or_no_auth(processes: Processes, signal: Signal) -> None:
    common = ("-m", "llmtunnel", "proxy", "--room", "open", "--signal", signal.url, "--stun", "none")
    refused = processes.start(*common, "--listen", "0.0.0.0:0", name="proxy")
    assert refused.wait_exit() == 2
    assert refused.wait_line("would let other machines use the model")
    assert refused.wait_line("TUNNEL_API_KEY, --api-key-file or --api-key.*--no-auth")
    opened = processes.start(*common, "--json", "--listen", "0.0.0.0:0", "--no-auth", name="proxy")
    address = address_of(opened.wait_event("listening")["url"])
    assert fetch(address, b"GET / HTTP/1.1\r\nHost: rebind.test\r\n\r\n").status == 403
    keyed = processes.start(*common, "--json", "--listen", "0.0.0.0:0", name="proxy", environ={"TUNNEL_API_KEY": KEY})
    address = address_of(keyed.wait_event("listening")["url"])
    assert fetch(address, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").status == 401


@pytest.mark.parametrize(
    "flags",
    [
        ("--api-key", ""),
        ("--api-key", KEY, "--no-auth"),
        ("--allow-origin", "*"),
        ("--allow-host", "0.0.0.0"),
        ("--listen", "::1:8000"),
    ],
)
def test_flags_that_cannot_be_used_are_exit_2_and_show_no_key(processes: Processes, flags: tuple[str, ...]) -> None:
    process = processes.start("-m", "llmtunnel", "proxy", "--room", "r", *flags, name="proxy")
    assert process.wait_exit() == 2
    assert KEY not in "\n".join([*process.lines, *process.errors])
