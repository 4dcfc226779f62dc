from __future__ import annotations

import pytest

from llmtunnel.errors import SettingError
from llmtunnel.listener import (
    Authority,
    ListenerPolicy,
    WebOrigin,
    canonical_host,
    is_loopback,
    parse_authority,
    parse_origin,
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
        ("::FFFF:127.0.0.1", "127.0.0.1"),
        ("::ffff:7f00:1", "127.0.0.1"),
        ("127.1", "127.1"),  # a name, to us: nobody allows it
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
    ("text", "origin"),
    [
        ("http://a", WebOrigin("http", "a", 80)),
        ("HTTPS://A:443", WebOrigin("https", "a", 443)),
        ("http://[::1]:3000", WebOrigin("http", "::1", 3000)),
        ("chrome-extension://abc", WebOrigin("chrome-extension", "abc", None)),
        *((bad, None) for bad in ["", "null", "*", "a", "//a", "file://", "http://", "http://a/", "http://a http://b"]),
    ],
)
def test_an_origin_is_a_scheme_a_host_and_a_port(text: str, origin: WebOrigin | None) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True)]
    + [(other, False) for other in ("0.0.0.0", "::", "10.0.0.1", "127.1", "localhost.evil.example", "a.localhost")],
)
def test_loopback_is_what_no_other_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("name", ["", "http://a", "a:80", "*", "a b"])
def test_a_host_to_allow_is_a_name_or_an_address(name: str) -> None:
    with pytest.raises(SettingError, match="host's name"):
        ListenerPolicy(allow_hosts=(name,))


@pytest.mark.parametrize("origin", ["", "*", "null", "file://", "app.example", "https://app.example/path"])
def test_an_origin_to_allow_is_one_that_no_other_page_has_too(origin: str) -> None:
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
