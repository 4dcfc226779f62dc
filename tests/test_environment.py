from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from itertools import permutations

import pytest

from llmtunnel.environment import Environ, for_clients

from .support.background import SERVED, Background
from .support.processes import environment

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
NAMES = (
    *("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY", "OLLAMA_HOST", "OLLAMA_API_BASE", "OLLAMA_API_KEY"),
    *PROXIES,
    *(name.lower() for name in PROXIES),
)
DEAD = "http://127.0.0.1:9"
"""An HTTP proxy that does not answer."""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_called_plainly_it_sets_them_until_they_are_restored() -> None:
    environ = for_clients("http://127.0.0.1:8000", api_key=None)
    urls = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OLLAMA_HOST", "OLLAMA_API_BASE")
    assert [os.environ[name] for name in urls] == [
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8000",
        "http://127.0.0.1:8000",
    ]
    assert {os.environ[name] for name in ("OPENAI_API_KEY", "OLLAMA_API_KEY")} == {"llmtunnel"}
    environ.restore()
    assert not set(NAMES) & os.environ.keys()
    os.environ["OLLAMA_HOST"] = "later"
    environ.restore()
    assert os.environ.pop("OLLAMA_HOST") == "later", "the second time restores nothing"


def test_what_was_there_comes_back_also_where_the_block_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "before")
    with pytest.raises(KeyError), for_clients("http://a", api_key="k"):
        raise KeyError
    assert os.environ["OLLAMA_HOST"] == "before"


def test_what_somebody_else_has_set_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "before")
    with Environ({"A": "ours", "B": "ours"}):
        monkeypatch.setenv("A", "theirs")
        monkeypatch.delenv("B")
    assert os.environ["A"] == "theirs"
    assert "B" not in os.environ


def test_its_repr_shows_no_key() -> None:
    with for_clients("http://a", api_key="secret") as environ:
        assert "secret" not in repr(environ)


@pytest.mark.parametrize(
    ("before", "url", "expected"),
    [
        ({}, "http://127.0.0.1:8000", "127.0.0.1,localhost,::1"),
        ({}, "http://[::1]:8000", "127.0.0.1,localhost,::1"),
        ({}, "http://192.168.1.7:8000", "192.168.1.7"),
        ({"NO_PROXY": "corp.example, .lan"}, "http://10.0.0.1:1", "corp.example,.lan,10.0.0.1"),
        ({"no_proxy": "corp.example"}, "http://10.0.0.1:1", "corp.example,10.0.0.1"),
        ({"NO_PROXY": "localhost"}, "http://127.0.0.1:1", "localhost,127.0.0.1,::1"),
        ({"no_proxy": "10.0.0.1"}, "http://10.0.0.1:1", "10.0.0.1"),
        ({"no_proxy": "*"}, "http://10.0.0.1:1", "*"),
        ({"no_proxy": ""}, "http://10.0.0.1:1", "10.0.0.1"),
    ],
)
def test_http_proxies_are_bypassed_for_the_listener_beside_what_bypasses_them_already(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, str], url: str, expected: str
) -> None:
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    with for_clients(url, api_key=None):
        assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == (expected, expected)
    assert {name: os.environ[name] for name in ("NO_PROXY", "no_proxy") if name in os.environ} == before


@pytest.mark.skipif(os.name != "posix", reason="elsewhere both spellings are one variable")
def test_each_spelling_keeps_what_it_says_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "upper")
    monkeypatch.setenv("no_proxy", "lower")
    with for_clients("http://10.0.0.1:1", api_key=None):
        assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == ("upper,10.0.0.1", "lower,10.0.0.1")
    assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == ("upper", "lower")


def test_proxies_in_the_systems_settings_are_left_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmtunnel.environment.getproxies", lambda: {"http": DEAD})  # as on macOS and Windows
    with for_clients("http://127.0.0.1:1", api_key=None):
        assert not {"NO_PROXY", "no_proxy"} & os.environ.keys()


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize(
    "urls", [("http://127.0.0.1:1", "http://127.0.0.1:2", "http://10.0.0.1:3"), ("http://a:1",) * 3]
)
def test_several_at_once_are_restored_in_any_order(
    monkeypatch: pytest.MonkeyPatch, urls: tuple[str, ...], order: tuple[int, ...]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for OpenAI itself")
    monkeypatch.setenv("no_proxy", "before")
    before = {name: os.environ.get(name) for name in NAMES}
    made = [for_clients(url, api_key=None) for url in urls]
    newest = {name: os.environ.get(name) for name in NAMES}
    active = set(range(3))
    for number in order:
        made[number].restore()
        active.remove(number)
        if 2 in active:
            assert {name: os.environ.get(name) for name in NAMES} == newest
        elif active:
            assert os.environ["OLLAMA_HOST"] == urls[max(active)]
            assert os.environ["OPENAI_API_KEY"] == "llmtunnel", "a key for OpenAI itself would go to the other side"
    assert {name: os.environ.get(name) for name in NAMES} == before


CLIENTS = {
    "urllib": "urllib.request.urlopen(url).read().decode()",
    "requests": "requests.get(url).text",
    "httpx": "httpx.get(url).text",
    "openai": "openai.OpenAI().get('/models', cast_to=httpx.Response).text",
}


@pytest.mark.parametrize(
    ("client", "proxy"),
    [
        *((client, "HTTP_PROXY") for client in CLIENTS),
        *((client, "ALL_PROXY") for client in CLIENTS if client != "urllib"),
    ],
)
def test_clients_reach_the_listener_where_the_environment_names_an_http_proxy(client: str, proxy: str) -> None:
    program = f"""
        import urllib.request, httpx, openai, requests, sys
        import llmtunnel

        def ask(url):
            return {CLIENTS[client]}

        with llmtunnel.proxy(room="{SERVED}", signal=sys.argv[1], stun=(), listen="127.0.0.1:0") as proxy:
            with proxy.environ():
                assert ask(f"{{proxy.url}}/v1/models") == "/v1/models"
            try:
                ask(f"{{proxy.url}}/v1/models")
            except Exception:  # each client has its own
                sys.exit(7)
    """
    with Background() as other:
        # The tunnel itself bypasses the dead proxy by other means: the signal server's other name.
        variables = {proxy: DEAD, proxy.lower(): DEAD, "NO_PROXY": "", "no_proxy": "localhost"}
        signal = other.signal.replace("127.0.0.1", "localhost")
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), signal],
            env=environment(variables | {"OPENAI_API_KEY": ""}),
            timeout=60,
            check=False,
            capture_output=True,
            text=True,
        )
    assert ended.returncode == 7, ended.stderr
