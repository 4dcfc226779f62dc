from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from llmtunnel.cli.options import ShowText
from llmtunnel.config import ProxySettings, ServeSettings
from llmtunnel.endpoints.discovery import Found
from llmtunnel.errors import SettingError, UpstreamNotFound
from llmtunnel.invite import Invite
from llmtunnel.notebook import opening
from llmtunnel.notebook.opening import LATER, Plan, plan


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Found]]:
    """What answers on this machine."""
    servers: list[Found] = []
    monkeypatch.setattr(opening, "_look", lambda: servers)
    yield servers


def planned(line: str, *, kept: Invite | None = None) -> Plan:
    made = plan(line.split(), kept=kept)
    assert isinstance(made, Plan)
    return made


def served(line: str, *, kept: Invite | None = None) -> ServeSettings:
    settings = planned(line, kept=kept).settings
    assert isinstance(settings, ServeSettings)
    return settings


def test_words_are_those_of_the_command_line() -> None:
    settings = served("serve vllm --room r --secret long-enough --policy openai --max-requests 3")
    assert str(settings.upstream) == "http://localhost:8000"
    assert (settings.room, settings.secret, settings.exposure.max_requests) == ("r", "long-enough", 3)
    assert not settings.seek
    bring = planned("proxy --room r --listen 127.0.0.1:0").settings
    assert isinstance(bring, ProxySettings)
    assert bring.listen == "127.0.0.1:0"


def test_the_one_server_that_answers_is_taken_and_named(found: list[Found]) -> None:
    found.append(Found(name="Ollama", port=11434, models=("llama3",)))
    made = planned("serve --upstream-header X-Key:k")
    assert isinstance(made.settings, ServeSettings)
    assert made.settings.upstream.fields == ((b"X-Key", b"k"),)
    assert made.remarks[0] == "upstream: Ollama on port 11434 (llama3)"
    assert "--policy ollama" in made.remarks[1]
    assert len(planned("serve --policy ollama").remarks) == 1


def test_where_none_answers_yet_it_is_looked_for_and_where_several_do_one_must_choose(found: list[Found]) -> None:
    made = planned("serve --upstream-header X-Key:k")
    assert isinstance(made.settings, ServeSettings)
    assert made.settings.seek
    assert made.settings.upstream.fields == ((b"X-Key", b"k"),)
    assert made.remarks == (LATER,)
    found += [Found(name="Ollama", port=11434), Found(name="vLLM", port=8000)]
    with pytest.raises(UpstreamNotFound, match="Several"):
        planned("serve")


def test_the_invite_of_the_one_before_goes_on_unless_another_is_given() -> None:
    before, other = Invite.generate(), Invite.generate()
    assert served("serve 80", kept=before).invite == before
    assert served("serve 80", kept=before).secret == before.secret
    assert served(f"serve 80 --invite {other.code}", kept=before).invite == other
    assert served("serve 80 --room r", kept=before).invite is None
    elsewhere = served("serve 80 --signal ws://127.0.0.1:1", kept=before)
    assert elsewhere.invite not in (None, before)


def test_what_is_weak_is_said() -> None:
    assert "warning: A room without a secret" in planned("proxy --room r").remarks[0]
    assert planned(f"proxy {Invite.generate().code}").remarks == ()
    (any_site,) = planned(f"proxy {Invite.generate().code} --allow-origin null").remarks
    assert "warning: --allow-origin null lets every web site use the proxy" in any_site
    assert planned(f"proxy {Invite.generate().code} --allow-origin file://").remarks == ()


def test_help_is_text() -> None:
    assert isinstance(plan(["serve", "--help"], kept=None), ShowText)


def test_logs_are_configured_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[str] = []
    before = logging.getLogger("llmtunnel").level
    monkeypatch.setattr(opening.logs, "configure", levels.append)
    planned("serve 80")
    planned("serve 80 -v")
    planned("proxy --room r --log-level debug")
    assert levels == ["info", "debug"]
    assert logging.getLogger("llmtunnel").level == before


@pytest.mark.parametrize("line", ["serve 80 --json", "signal", "demo", "serve ftp://x", "proxy"])
def test_what_makes_no_tunnel_here_is_refused(line: str) -> None:
    with pytest.raises(SettingError):
        planned(line)
