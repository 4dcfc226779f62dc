from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.errors import SettingError
from llmtunnel.listener import (
    OPAQUE,
    Authority,
    ListenerPolicy,
    WebOrigin,
    address_of,
    canonical_host,
    is_loopback,
    netloc,
    parse_authority,
    parse_origin,
    split_netloc,
    usual_address,
)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("LocalHost", "localhost"),
        ("localhost.", "localhost"),
        ("host.docker.internal", "host.docker.internal"),
        ("my_gpu-1", "my_gpu-1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("::1", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("127.1", "127.1"),  # see `usual_address`
        ("0x7f.0.0.1", "0x7f.0.0.1"),
        ("127.0.0.01", "127.0.0.01"),
    ],
)
def test_a_host_has_one_spelling(text: str, host: str) -> None:
    assert canonical_host(text) == host


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", ".a", "a b", "a/b", "user@a", "a:80", "[::1]", "::1%eth0", "bücher", "*", "*.a", "a\n"]
)
def test_what_is_no_host_is_none(text: str) -> None:
    assert canonical_host(text) is None


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("a", Authority("a", None)),
        ("A.:80", Authority("a", 80)),
        ("a:", Authority("a", None)),
        ("[::1]:8000", Authority("::1", 8000)),
        ("127.0.0.1:1", Authority("127.0.0.1", 1)),
        *(
            (bad, None)
            for bad in [
                "",
                ":80",
                "::1",
                "[::1",
                "[localhost]",
                "[127.0.0.1]",
                "[::1]evil.example",
                "[::1%25eth0]",
                "[fe80::1%eth0]",
                "a:65536",
                "a:-1",
                "a:8x",
                "a:80:80",
                "localhost@evil.example",
                "evil.example#localhost",
                "localhost, evil.example",
                "localhost evil.example",
                "localhost\x00.evil.example",
                "loc\u0430lhost",
            ]
        ),
    ],
)
def test_an_authority_is_a_host_with_or_without_a_port(text: str, authority: Authority | None) -> None:
    assert parse_authority(text) == authority


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("gpu.lan", ("gpu.lan", None)),
        (":8000", ("", 8000)),
        ("[::1]:0", ("::1", 0)),
        ("[fe80::1%eth0]", ("fe80::1%eth0", None)),
        *((bad, None) for bad in ["::1", "[127.0.0.1]:1", "[gpu.lan]", "a:65536", "a:b", "a/b:1", "user@a:1", "a b"]),
    ],
)
def test_host_and_port_are_split_in_one_way_and_put_together_again(
    text: str, parts: tuple[str, int | None] | None
) -> None:
    assert split_netloc(text) == parts
    if parts is not None:
        assert netloc(*parts) == text


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://a", WebOrigin("http", "a", 80)),
        ("HTTPS://A:443", WebOrigin("https", "a", 443)),
        ("http://[::1]:3000", WebOrigin("http", "::1", 3000)),
        ("http://[::FFFF:7f00:1]", WebOrigin("http", canonical_host("::ffff:127.0.0.1") or "", 80)),
        ("chrome-extension://abc", WebOrigin("chrome-extension", "abc", None)),
        ("vscode-webview://0Ab-c", WebOrigin("vscode-webview", "0ab-c", None)),
        ("tauri://localhost", WebOrigin("tauri", "localhost", None)),
        ("capacitor://localhost:80", WebOrigin("capacitor", "localhost", 80)),
        ("app://.", WebOrigin("app", ".", None)),
        ("app://-", WebOrigin("app", "-", None)),
        ("file://", WebOrigin("file", "", None)),
        ("null", OPAQUE),
        *(
            (bad, None)
            for bad in [
                "",
                "NULL",
                "*",
                "a",
                "//a",
                "http://",
                "https://.",
                "http://a/",
                "http://a http://b",
                "file:///",
                "file:///home/me",
                "app://a/b",
                "app://a b",
                "app://a@b",
                "://a",
                "1app://a",
                "null, null",
            ]
        ),
    ],
)
def test_an_origin_is_a_scheme_a_host_and_a_port(text: str, origin: WebOrigin | None) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    ("host", "loopback"),
    [(own, True) for own in ("localhost", "jupyter.localhost", "a.b.localhost", "127.0.0.1", "127.9.9.9", "::1")]
    + [
        (other, False)
        for other in (
            "0.0.0.0",
            "::",
            "10.0.0.1",
            "127.1",
            "::ffff:127.0.0.1",
            "::ffff:7f00:1",
            "",
            "localhost.evil.example",
            "notlocalhost",
            ".localhost.a",
        )
    ],
)
def test_loopback_is_what_no_other_machine_reaches_and_browsers_know_for_it(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


SPELLINGS = {
    "127.0.0.1": "127.1 127.0.1 2130706433 0x7f000001 0x7f.1 0X7F.0.0.1 0177.1 017700000001 127.0.0.01 0x7f.0.0x0.01",
    "0.0.0.0": "0 0.0 0.0.0 00 0x 0x0.0 00.0.0.0 000000000000",
    "192.168.1.5": "192.168.261 3232235781 0xc0a80105",
}


@pytest.mark.parametrize(
    ("host", "address"), [(host, address) for address, hosts in SPELLINGS.items() for host in hosts.split()]
)
def test_an_address_is_known_in_every_spelling_and_named_in_the_usual_one(host: str, address: str) -> None:
    assert address_of(host) == ipaddress.IPv4Address(address)
    assert usual_address(host) == {"0.0.0.0": "127.0.0.1"}.get(address, address)


@pytest.mark.parametrize(
    ("host", "usual"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::ffff:7f00:1", "127.0.0.1"),
        ("::ffff:0:0", "127.0.0.1"),
        ("::ffff:c0a8:105", "192.168.1.5"),
        *(
            (fine, None)
            for fine in ["127.0.0.1", "::1", "10.0.0.1", "2001:db8::1", "localhost", "a.localhost", "gpu.lan"]
        ),
        *((name, None) for name in ["256.1", "1.2.3.4.5", "08", "0xg", "127.0.0.1.nip.io", "4294967296", "1.16777216"]),
        *((name, None) for name in ["", ".", "1.", "1..2", "-1", "+1", "1_0", "9" * 5000]),
    ],
)
def test_another_address_is_named_for_one_that_browsers_do_not_mark(host: str, usual: str | None) -> None:
    assert usual_address(host) == usual


@given(st.integers(0, 2**32 - 1), st.data())
def test_inet_aton_and_we_read_the_same_address(number: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    parts = [number >> 8 * (3 - at) & 255 for at in range(count - 1)]
    parts.append(number & (1 << 8 * (5 - count)) - 1)
    text = ".".join(data.draw(st.sampled_from([f"{part}", f"{part:#x}", f"0{part:o}"])) for part in parts)
    assert address_of(text) == ipaddress.IPv4Address(socket.inet_aton(text))


@pytest.mark.parametrize("name", ["", "http://a", "a:80", "*", "a b"])
def test_a_host_to_allow_is_a_name_or_an_address(name: str) -> None:
    with pytest.raises(SettingError, match="not a host name"):
        ListenerPolicy(allow_hosts=(name,))


@pytest.mark.parametrize(
    "name", ["0.0.0.0", "::", "0", "127.1", "2130706433", "0x7f.1", "::ffff:127.0.0.1", "::ffff:7f00:1"]
)
def test_a_host_that_browsers_do_not_mark_cannot_be_allowed_and_another_is_named(name: str) -> None:
    with pytest.raises(SettingError, match="do not mark") as caught:
        ListenerPolicy(allow_hosts=(name,))
    assert "127.0.0.1" in caught.value.hint or "::1" in caught.value.hint


def test_one_text_is_not_taken_for_a_tuple_of_its_letters() -> None:
    with pytest.raises(SettingError, match="allow_hosts must be a tuple"):
        ListenerPolicy(allow_hosts="gpu")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="allow_origins must be a tuple"):
        ListenerPolicy(allow_origins="https://app.example")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "origin",
    ["https://app.example", "http://[::1]:3000", "file://", "null", "app://.", "tauri://localhost", "http://a:80"],
)
def test_an_origin_is_shown_as_it_is_allowed(origin: str) -> None:
    parsed = parse_origin(origin)
    assert parsed is not None
    assert parse_origin(str(parsed)) == parsed
    assert ListenerPolicy(allow_origins=(str(parsed),)).any_site is (origin == "null")


@pytest.mark.parametrize("origin", ["", "*", "NULL", "file:///", "app.example", "https://app.example/path"])
def test_an_origin_to_allow_is_one_that_a_browser_sends(origin: str) -> None:
    with pytest.raises(SettingError, match="origin") as caught:
        ListenerPolicy(allow_origins=(origin,))
    assert "--allow-origin https://app.example" in caught.value.hint


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel", "x" * 5000])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingError) as caught:
        ListenerPolicy(api_key=key)
    assert not key or key not in f"{caught.value}{caught.value.hint}"


def test_a_key_is_in_no_repr_and_goes_not_with_no_auth() -> None:
    assert "hidden" not in repr(ListenerPolicy(api_key="hidden"))
    with pytest.raises(SettingError, match="contradict"):
        ListenerPolicy(api_key="hidden", no_auth=True)
