"""The notebooks as their readers run them: in a real kernel, each with a real other side."""

from __future__ import annotations

import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import openai
import pytest

import llmtunnel
from llmtunnel.invite import Invite

from ..support import ports
from ..support.notebook_kernel import Place, Running, running
from ..support.processes import PATIENCE, Process, Processes, Signal

pytestmark = pytest.mark.timeout(240)

HELD = "[each.name for each in __import__('threading').enumerate() if 'llmtunnel' in each.name]"
"""The thread of a tunnel that runs."""


@pytest.fixture(scope="module")
def signal(started: Processes) -> Signal:
    return started.signal()


@pytest.fixture(scope="module")
def toy(started: Processes) -> str:
    """Where the toy model server is: in the place of Ollama."""
    process = started.command("toy", "--listen", "127.0.0.1:0")
    return str(process.wait_event("listening")["url"])


@pytest.fixture
def invite(signal: Signal) -> Invite:
    """As one makes it ahead."""
    return Invite.generate(signal.url)


def assert_keeps(notebook: Running, invite: Invite) -> None:
    """Neither the code nor its words are in the file that would be saved."""
    assert not [each for each in (invite.code, invite.secret) if each in notebook.saved]


@pytest.mark.parametrize("name", ["01_serve_colab", "02_serve_kaggle"])
def test_a_model_behind_the_notebook_answers_whoever_has_the_code(
    place: Place, started: Processes, invite: Invite, toy: str, name: str
) -> None:
    given = {"TUNNEL_INVITE": invite.code, "TUNNEL_UPSTREAM": toy}
    with running(place, name, **given) as notebook:
        notebook.run(until="serve")
        assert llmtunnel.__version__ in notebook.do("import llmtunnel; print(llmtunnel.__version__)")
        assert str(place.folder / "environment") in notebook.do("print(llmtunnel.__file__)")
        assert notebook.text("serve") == "", "the panel says it all"
        [panel] = notebook.shown("serve", "text/html")
        assert toy.removeprefix("http://") in panel
        proxy = started.command("proxy", "--listen", "127.0.0.1:0", TUNNEL_INVITE=invite.code)
        url = str(proxy.wait_event("ready")["url"])
        pieces = streamed(url)
        assert len(pieces) > 10
        assert "toy" in "".join(pieces)
        assert refused(url, "/api/pull") == 403
        notebook.run()
        assert re.search(r"^proxy-\w+ +(direct|local TCP) ", notebook.text("peers"), re.MULTILINE)
        assert_keeps(notebook, invite)
        notebook.stop()
        proxy.wait_event("peer-lost")
        assert notebook.value(HELD) == []
    proxy.stop()


def is_free(url: str) -> bool:
    """Whether nobody listens there any more."""
    return ports.is_free(urllib.parse.urlsplit(url).port or 80)


def streamed(url: str) -> list[str]:
    """The pieces of an answer that OpenAI's client gets."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as client:
        chunks = client.chat.completions.create(
            model="toy", messages=[{"role": "user", "content": "What are you?"}], stream=True
        )
        return [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]


def refused(url: str, path: str) -> int:
    """The status of a POST that fails."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(urllib.request.Request(url + path, b"{}"), timeout=PATIENCE)
    with caught.value as answer:
        return answer.code


@pytest.fixture
def served(started: Processes, signal: Signal, toy: str, invite: Invite) -> Iterator[Process]:
    """A serve with the invite, elsewhere."""
    serve = started.command("serve", toy, TUNNEL_INVITE=invite.code)
    serve.wait_event("waiting")
    yield serve
    serve.stop()


def test_a_notebook_uses_what_is_served_elsewhere(place: Place, served: Process, invite: Invite) -> None:
    with running(place, "03_local_proxy", TUNNEL_INVITE=invite.code, OPENAI_BASE_URL="http://elsewhere") as notebook:
        notebook.run()
        url = notebook.value("proxy.url")
        assert "'toy'" in notebook.text("models")
        assert f"{url}/v1" in notebook.text("models")
        assert "each of these words was an event of its own" in notebook.text("ask")
        assert notebook.text("ask").endswith("Three sentences. ")
        assert "first byte after" in notebook.text("look")
        assert " tokens, " in notebook.text("look")
        assert notebook.value("__import__('os').environ['OPENAI_BASE_URL']") == f"{url}/v1"
        assert_keeps(notebook, invite)
        notebook.stop()
        assert notebook.value("__import__('os').environ['OPENAI_BASE_URL']") == "http://elsewhere"
        assert is_free(url)
        assert notebook.value(HELD) == []
    served.wait_event("request", path="/v1/chat/completions", status=200)
    served.wait_event("peer-lost")


def test_a_whole_tunnel_is_in_one_kernel_and_its_times_are_drawn(place: Place) -> None:
    with running(place, "04_whole_tunnel_here") as notebook:
        notebook.run()
        urls = notebook.value("[toy.url, signal.url, proxy.url]")
        assert "toy model server" in notebook.text("servers")
        assert notebook.shown("serve", "application/vnd.jupyter.widget-view+json"), "a live panel"
        assert notebook.text("ask").endswith("You asked: What are you? ")
        assert "20 answers" in notebook.text("many")
        [picture] = notebook.shown("plot", "image/png")
        assert len(picture) > 10_000
        counted = "[each.status, each.tokens is not None]"
        chats = notebook.value(f"[{counted} for each in proxy.records(100) if 'chat' in each.path]")
        assert chats == 21 * [[200, True]]
        assert_keeps(notebook, Invite.parse(notebook.value("server.invite.code")))
        notebook.stop()
        assert all(map(is_free, urls))
        assert notebook.value(HELD) == []


def test_with_a_signal_server_of_ones_own_the_code_alone_says_where(place: Place) -> None:
    with running(place, "05_self_hosted_signal") as notebook:
        notebook.run()
        urls = notebook.value("[toy.url, signal.url, *(proxy.url for proxy in proxies)]")
        assert notebook.text("signal") == f"{urls[1]} says ok\n"
        assert f"the code ends in @{urls[1]}" in notebook.text("proxies")
        assert notebook.text("proxies").count("has toy") == 2
        assert len(notebook.value("[each.peer for each in server.status.peers]")) == 2
        assert "wss://signal.example.org" in notebook.text("ahead")
        for code in notebook.value("[server.invite.code, invite.code]"):
            assert_keeps(notebook, Invite.parse(code))
        notebook.stop()
        assert all(map(is_free, urls))
        assert notebook.value(HELD) == []
