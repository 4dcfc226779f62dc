"""A page's key: the JavaScript core signs what the Python core checks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmtunnel.errors import ErrorCode
from llmtunnel.protocol import keys
from llmtunnel.protocol.auth import ServeCredentials
from llmtunnel.protocol.door import Door
from llmtunnel.protocol.frames import Feature
from llmtunnel.protocol.greeting import Greeting
from llmtunnel.protocol.hello import Hello
from llmtunnel.protocol.keys import Certificates
from llmtunnel.status import Role

from .node import Calls, Handle

SEEN = Certificates(proxy=b"p" * 32, serve=b"s" * 32)


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    with Calls() as calls:
        yield calls


def page(calls: Calls, **options: object) -> tuple[Handle, bytes]:
    """A page's greeting, and its key."""
    identity: Handle = calls("identity.newIdentity")
    credentials = {
        "room": "room",
        "secret": "secret",
        "certificates": {"proxy": SEEN.proxy, "serve": SEEN.serve},
        "guesses": calls("auth.newGuesses"),
        "identity": identity,
    }
    return calls("greeting.Greeting.begin", {"now": 0, "credentials": credentials} | options), identity.get("publicKey")


@pytest.mark.parametrize("knows", [True, False], ids=["a serve that knows keys", "an earlier serve"])
def test_serve_knows_a_page_by_its_key(calls: Calls, knows: bool) -> None:
    greeting, key = page(calls)
    credentials = ServeCredentials(room="room", certificates=SEEN, door=Door("secret"))
    serve = Greeting(Role.SERVE, now=0.0, credentials=credentials, certificate=SEEN.proxy)
    if not knows:
        serve._handshake.offered -= {Feature.IDENTITY}
    sizes = []
    for _ in range(2):
        message = greeting.call("messageToSend")
        sizes.append(len(message))
        serve.receive_message(message, 0.0)
        answer = serve.message_to_send()
        assert answer is not None
        greeting.call("receiveMessage", answer, 0)
    assert serve.agreement is not None and serve.agreement.ticket is not None
    assert greeting.get("agreement")["ticket"]["key"] == serve.agreement.ticket.key
    assert sizes[1] == 5 + 32 + (64 if knows else 0)
    assert (Feature.IDENTITY in serve.agreement.features) is knows
    assert serve.agreement.certificate == (keys.fingerprint(key) if knows else SEEN.proxy)
    assert calls("keys.fingerprint", key) == keys.fingerprint(key)


def test_a_hello_names_the_key(calls: Calls) -> None:
    greeting, key = page(calls)
    hello = Hello.decode(greeting.call("messageToSend")[5:])
    assert hello.identity == key and Feature.IDENTITY in hello.features


@pytest.mark.parametrize(
    ("browser", "name"),
    [
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
            "Chrome",
        ),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/156.0.0.0 Safari/537.36 Edg/156.0.0.0", "Edge"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox"),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1 Version/18.0 Safari/604.1",
            "Safari",
        ),
        ("curl/8", None),
    ],
    ids=["chrome", "edge", "firefox", "safari", "other"],
)
def test_a_page_names_its_browser(calls: Calls, browser: str, name: str | None) -> None:
    assert calls("agent.agentOf", browser) == ("llmtunnel page" + (f" ({name})" if name else ""))


RESUME = {"session": b"s" * 16, "received": [0]}


def answered(calls: Calls, *, resumes: bool, **options: object) -> tuple[Handle, Greeting]:
    """A page that asks to resume a session, and serve, which has answered it by its secret. ``resumes``: serve lies."""
    greeting, _ = page(calls, resume=RESUME, **options)
    credentials = ServeCredentials(room="room", certificates=SEEN, door=Door("secret"))
    serve = Greeting(Role.SERVE, now=0.0, credentials=credentials, certificate=SEEN.proxy)
    if resumes:
        serve._handshake._ask_for_session = lambda resume: (0,)  # type: ignore[attr-defined]
    serve.receive_message(greeting.call("messageToSend"), 0.0)
    agree = serve.message_to_send()
    assert agree is not None
    greeting.call("receiveMessage", agree, 0)
    return greeting, serve


def test_who_knows_the_secret_and_not_the_ticket_gets_no_session_that_is_open(calls: Calls) -> None:
    greeting, serve = answered(calls, resumes=True)
    ended = greeting.get("ended")
    assert ended is not None and ended["message"] == "Serve goes on with a session without its ticket."
    assert not greeting.get("wasGuessed"), "nothing was proven to it"
    serve.receive_message(greeting.call("messageToSend"), 0.0)
    assert serve.agreement is None and serve.ended is not None


@pytest.mark.parametrize("working", [True, False])
def test_who_knows_the_secret_takes_no_place_of_a_working_session(calls: Calls, working: bool) -> None:
    greeting, serve = answered(calls, resumes=False, continues=working)
    ended = greeting.get("ended")
    assert (ended is not None) is working
    if working:
        assert ended["code"] == ErrorCode.REFUSED and not greeting.get("wasGuessed")
    serve.receive_message(greeting.call("messageToSend"), 0.0)
    assert (serve.agreement is None) is working
