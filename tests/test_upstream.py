from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.errors import ProtocolError, SettingError
from llmtunnel.upstream import NAMED, Upstream, parse_header


@pytest.mark.parametrize(
    ("text", "url", "authority"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434", b"127.0.0.1:11434"),
        ("http://127.0.0.1:11434/", "http://127.0.0.1:11434", b"127.0.0.1:11434"),
        ("http://Example.COM", "http://example.com", b"example.com"),
        ("HTTP://example.com:80/api//v1/", "http://example.com/api//v1", b"example.com"),
        ("https://example.com/", "https://example.com", b"example.com"),
        ("https://example.com:443", "https://example.com", b"example.com"),
        ("https://example.com:80", "https://example.com:80", b"example.com:80"),
        ("http://example.com:443", "http://example.com:443", b"example.com:443"),
        ("11434", "http://localhost:11434", b"localhost:11434"),
        (" 8080 ", "http://localhost:8080", b"localhost:8080"),
        ("gpu-box:8000", "http://gpu-box:8000", b"gpu-box:8000"),
        ("gpu_box:8000/v1", "http://gpu_box:8000/v1", b"gpu_box:8000"),
        ("[::1]:8080", "http://[::1]:8080", b"[::1]:8080"),
        ("http://[0:0::1]:80", "http://[::1]", b"[::1]"),
        ("http://[fe80::1%eth0]:8080", "http://[fe80::1]:8080", b"[fe80::1]:8080"),
        ("http://bücher.example/ü%2Fx", "http://xn--bcher-kva.example/%C3%BC%2Fx", b"xn--bcher-kva.example"),
        ("ollama", "http://localhost:11434", b"localhost:11434"),
        ("vLLM", "http://localhost:8000", b"localhost:8000"),
        ("tgi", "http://localhost:8080", b"localhost:8080"),
        ("ollama:11434", "http://ollama:11434", b"ollama:11434"),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, url: str, authority: bytes) -> None:
    upstream = Upstream.parse(text)
    assert (str(upstream), upstream.authority) == (url, authority)
    assert str(Upstream.parse(str(upstream))) == url


def test_the_zone_of_an_address_is_kept_for_connecting() -> None:
    assert Upstream.parse("http://[fe80::1%eth0]:8080").host == "fe80::1%eth0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gpu-box",
        "lama",
        "0",
        "65536",
        "99999999999999999999",
        "http://",
        "http://:80",
        "http://h:x",
        "http://h:0",
        "http://h:65536",
        "http://[::1",
        "http://[::g]:1",
        "http://a b:1",
        "http://a\r\nb:1",
        "http://h:1/a b",
        "http://h:1/a\tb",
        "ftp://h:1",
        "unix:///run/x.sock",
        "http://h\\@evil:1",
        "http://me:secret@h:1",
        "http://me@h",
        "http://h:1/?x",
        "http://h:1?",
        "http://h:1/#x",
        "http://-h:1",
        "http://h,i:1",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(SettingError) as caught:
        Upstream.parse(text)
    assert caught.value.hint
    assert caught.value.exit_code == 2
    assert "secret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("olama", "Unknown server 'olama'.", "Did you mean 'ollama'?"),
        ("VLM", "Unknown server 'VLM'.", "Did you mean 'vllm'?"),
        ("llama.cpp", "Unknown server 'llama.cpp'.", "Did you mean 'llamacpp'?"),
        ("jupyter", "Unknown server 'jupyter'.", "a port, or one of ollama, vllm,"),
        ("4821309-tulip-mango-onion-cedar-fruit", "The upstream's address is not valid.", "For a code, use --invite."),
        ("tulip-mango", "The upstream's address is not valid.", "For a code, use --invite."),
    ],
)
def test_a_name_that_is_no_servers_is_told_with_the_nearest_one_and_a_code_is_not_repeated(
    text: str, message: str, hint: str
) -> None:
    with pytest.raises(SettingError) as caught:
        Upstream.parse(text)
    assert caught.value.message == message
    assert hint in caught.value.hint


def test_tls_options_go_with_https_and_not_together() -> None:
    assert Upstream.parse("https://h", insecure=True).insecure
    assert Upstream.parse("https://h", ca_file="ca.pem").ca_file == "ca.pem"
    with pytest.raises(SettingError, match="https"):
        Upstream.parse("http://h:1", insecure=True)
    with pytest.raises(SettingError, match="contradict"):
        Upstream.parse("https://h", insecure=True, ca_file="ca.pem")


def test_a_repr_masks_what_extra_fields_say() -> None:
    upstream = Upstream.parse("8000", headers=["Authorization: Bearer hunter2"])
    assert repr(upstream) == "<Upstream http://localhost:8000 Authorization: ***>"
    assert "hunter2" not in f"{upstream} {upstream!r}"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("Authorization: Bearer x", (b"Authorization", b"Bearer x")),
        ("X-Key:a:b \t", (b"X-Key", b"a:b")),
        ("X-Empty:", (b"X-Empty", b"")),
        ("X-Name: é", (b"X-Name", "é".encode())),
    ],
)
def test_a_header_line_is_read(line: str, field: tuple[bytes, bytes]) -> None:
    assert parse_header(line) == field


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Bearer x",
        ": x",
        "A b: secret",
        "Ä: secret",
        "X : secret",
        "X: secret\r\nY: z",
        "X: secret\0",
        "Host: secret",
        "content-length: 5",
        "Transfer-Encoding: chunked",
    ],
)
def test_a_header_line_that_cannot_be_sent_is_refused_without_its_value(line: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_header(line)
    assert caught.value.hint
    assert "secret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "target", [b"/", b"/?", b"//evil", b"//evil:80/x", b"/a/../b", b"/%2F;+?a=b?c", b"/\xff\xfe", b"/@evil"]
)
def test_a_target_is_put_behind_the_base_path_byte_for_byte(target: bytes) -> None:
    assert Upstream.parse("http://h:1").request_target(target) == target
    assert Upstream.parse("http://h:1/base/").request_target(target) == b"/base" + target


def test_an_asterisk_stays_one() -> None:
    assert Upstream.parse("http://h:1/base").request_target(b"*") == b"*"


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"**",
        b"a",
        b"http://evil/",
        b"evil:443",
        b"@evil/",
        b"/a b",
        b"/a\r\nX: y",
        b"/a\0",
        b"\\evil",
        b"/\x7f",
    ],
)
def test_a_target_that_is_no_path_is_refused(target: bytes) -> None:
    with pytest.raises(ProtocolError):
        Upstream.parse("http://h:1/base").request_target(target)


@given(st.binary(max_size=40), st.sampled_from([b"", b"/base"]))
def test_whatever_the_target_is_the_request_line_has_three_parts_and_the_base_path(
    target: bytes, base_path: bytes
) -> None:
    upstream = Upstream(scheme="http", host="h", port=1, base_path=base_path)
    try:
        forwarded = upstream.request_target(target)
    except ProtocolError:
        return
    assert forwarded == b"*" or (forwarded.startswith(base_path + b"/") and forwarded.endswith(target))
    assert len((b"GET " + forwarded + b" HTTP/1.1").split()) == 3


@given(st.text(max_size=60) | st.from_regex(r"(https?://)?[\w.:\[\]@%-]{0,20}(/\w*)*", fullmatch=True))
def test_any_text_is_an_upstream_or_a_setting_error(text: str) -> None:
    try:
        upstream = Upstream.parse(text)
    except SettingError as exc:
        assert exc.hint
        return
    assert upstream.origin.isascii()
    assert not set(b" \r\n\0/@?#") & set(upstream.authority)
    assert upstream.base_path == b"" or (upstream.base_path[:1] == b"/" and upstream.base_path[-1:] != b"/")
    assert Upstream.parse(str(upstream)).authority == upstream.authority


def test_every_named_server_is_found_at_its_port() -> None:
    for name, port in NAMED.items():
        assert Upstream.parse(name).port == port
