from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from llmtunnel.config import (
    DEFAULT_LISTEN,
    DEFAULT_SIGNAL,
    DEFAULT_STUN,
    Exposure,
    IceServers,
    Limits,
    ProxySettings,
    ServeSettings,
    Settings,
    Timeouts,
    from_env,
)
from llmtunnel.errors import SettingError
from llmtunnel.upstream import Upstream


def test_the_defaults_are_those_of_the_manual() -> None:
    proxy = ProxySettings(room="r")
    serve = ServeSettings(room="r", upstream=Upstream.parse("ollama"))
    assert proxy.signal == serve.signal == DEFAULT_SIGNAL == "wss://signal-server.fly.dev"
    assert proxy.listen == DEFAULT_LISTEN == "127.0.0.1:8000"
    assert serve.advertise == "/"
    assert proxy.ice.stun == (DEFAULT_STUN,)
    assert proxy.ice.turn == ()
    assert not proxy.loopback


def test_settings_are_values() -> None:
    settings = Settings(room="r")
    with pytest.raises(FrozenInstanceError):
        settings.room = "s"  # type: ignore[misc]
    assert settings == Settings(room="r")
    assert hash(settings) == hash(Settings(room="r"))


@pytest.mark.parametrize("values", [Timeouts(), Limits()])
def test_every_time_and_every_limit_is_positive(values: Timeouts | Limits) -> None:
    assert all(getattr(values, each.name) > 0 for each in fields(values))


def test_times_that_depend_on_each_other_agree() -> None:
    times = Timeouts()
    assert times.ping_busy < times.dead_busy < times.dead_idle
    assert times.ping_idle < times.dead_idle
    assert times.dead_suspect < times.dead_busy
    assert times.retry_first < times.retry_max
    assert times.answer < times.offer < times.connect


@pytest.mark.parametrize("room", ["r", "a room with spaces", "日本", "x" * 256])
def test_a_room_has_any_name_of_up_to_256_bytes(room: str) -> None:
    assert Settings(room=room).room == room


@pytest.mark.parametrize("room", ["", "x" * 257, "日" * 86, "x" * 1_000_000, "\udcff"])
def test_a_room_without_a_name_or_with_one_that_cannot_be_sent_is_refused(room: str) -> None:
    with pytest.raises(SettingError, match="256 bytes") as caught:
        Settings(room=room)
    assert "--room" in caught.value.hint


@pytest.mark.parametrize("secret", ["s", "日本", "x" * 1024])
def test_a_secret_is_any_text_of_up_to_1024_bytes_and_is_not_shown(secret: str) -> None:
    settings = Settings(room="r", secret=secret)
    assert settings.secret == secret
    assert f"secret={secret!r}" not in repr(settings)
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("secret", ["", "x" * 1025, "\udcff"])
def test_a_secret_that_is_empty_too_long_or_no_text_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(SettingError, match="1 to 1024 bytes") as caught:
        ProxySettings(room="r", secret=secret)
    assert "xxx" not in str(caught.value)


def test_an_invite_that_ends_needs_a_secret_and_a_time_to_come() -> None:
    upstream = Upstream.parse("ollama")
    assert ServeSettings(room="r", secret="s", upstream=upstream, once=True, expires=0.5).once
    for more in ({"once": True}, {"expires": 60.0}):
        with pytest.raises(SettingError, match="need a secret"):
            ServeSettings(room="r", upstream=upstream, **more)  # type: ignore[arg-type]
    for expires in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(SettingError, match="--expires"):
            ServeSettings(room="r", secret="s", upstream=upstream, expires=expires)
    with pytest.raises(SettingError, match="256 bytes"):
        ServeSettings(room="", upstream=upstream)


@pytest.mark.parametrize("signal", ["ws://127.0.0.1:8787", "wss://host", "ws://[::1]:1/path?x=1", "WS://HOST"])
def test_a_signal_servers_address_is_a_websockets(signal: str) -> None:
    assert Settings(room="r", signal=signal).signal == signal


@pytest.mark.parametrize(
    "signal", ["", "http://host", "host:8787", "ws://", "wss://:80", "ws://host:99999", "ws://host:x", "ws://[::1"]
)
def test_another_address_for_the_signal_server_is_refused_with_an_example(signal: str) -> None:
    with pytest.raises(SettingError, match=r"^--signal: ") as caught:
        Settings(room="r", signal=signal)
    assert "ws://" in caught.value.hint


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        ("http://host", "--signal: must start with ws:// or wss://, got 'http://host'."),
        ("https://me:hunter2@host/x@y", "--signal: must start with ws:// or wss://, got 'https://host/x@y'."),
        ("ws://me:hunter2@host:x", "--signal: not a signal server's address: 'ws://host:x'."),
    ],
)
def test_the_error_says_what_the_signal_servers_address_must_be_and_hides_a_password(signal: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Settings(room="r", signal=signal)
    assert caught.value.message == message


@pytest.mark.parametrize("url", ["stun:host", "stun:host:3478", "stun:1.2.3.4:65535"])
def test_stun_servers(url: str) -> None:
    assert IceServers(stun=(url, url)).stun == (url, url)


@pytest.mark.parametrize("url", ["", "host:3478", "turn:host", "stun:", "stun:host:x", "stun:a b", "stun://host"])
def test_what_is_no_stun_servers_address_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="STUN") as caught:
        IceServers(stun=(url,))
    assert "stun:host:port" in caught.value.hint


@pytest.mark.parametrize("url", ["turn:host", "turns:host:5349", "turn:host:3478?transport=tcp"])
def test_turn_servers(url: str) -> None:
    assert IceServers(turn=(url,)).turn == (url,)


@pytest.mark.parametrize("url", ["", "stun:host", "turn:host?transport=sctp", "turn:u:p@host"])
def test_what_is_no_turn_servers_address_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="TURN"):
        IceServers(turn=(url,))


def test_a_turn_servers_password_is_not_shown() -> None:
    settings = Settings(room="r", ice=IceServers(turn=("turn:host",), turn_user="u", turn_pass="geheim"))
    assert "geheim" not in repr(settings)


@pytest.mark.parametrize("limit", ["max_requests", "max_requests_per_minute"])
def test_a_limit_that_lets_no_request_through_is_refused(limit: str) -> None:
    with pytest.raises(SettingError, match="--" + limit.replace("_", "-")):
        Exposure(**{limit: 0})
    assert getattr(Exposure(**{limit: 1}), limit) == 1


def test_a_body_may_have_a_limit_of_nothing_and_none_below_it() -> None:
    assert Exposure(max_body=0).max_body == 0
    with pytest.raises(SettingError, match="--max-body"):
        Exposure(max_body=-1)


def test_the_environment_gives_settings_by_the_flags_names() -> None:
    environ = {
        "TUNNEL_ROOM": "r",
        "TUNNEL_TURN_USER": "u",
        "TUNNEL_SIGNAL": "",
        "LLMTUNNEL_LOG": "debug",
        "NOT_TUNNEL_X": "1",
        "PATH": "/bin",
    }
    assert from_env(environ) == {"room": "r", "turn_user": "u", "log_level": "debug"}


def test_the_environment_is_the_processes_own_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNNEL_ROOM", "mine")
    monkeypatch.setenv("LLMTUNNEL_LOG", "")
    assert from_env()["room"] == "mine"
    assert "log_level" not in from_env()


@pytest.mark.parametrize(
    ("path", "secret", "words"),
    [
        ("relay", None, "needs a secret"),
        ("tcp", None, "needs a secret"),
        ("turn", "s", "needs a TURN server"),
        ("pigeon", "s", "--path: unknown value 'pigeon'"),
    ],
)
def test_a_path_that_cannot_be_says_why(path: str, secret: str | None, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Settings(room="r", secret=secret, path=path, no_signal_ice=True)


def test_the_signal_server_may_hand_out_the_turn_server_that_a_path_needs() -> None:
    assert Settings(room="r", path="turn").tried == {"turn"}
