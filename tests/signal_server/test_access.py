from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_server.access import LONGEST_FILE, LOOK, Access, TokenFile, check_token
from signal_server.cli import main
from signal_server.limits import Limits
from signal_server.messages import Code, Join, Refused, parse
from signal_server.relay import PROTOCOL
from signal_server.settings import SettingError

from ..conftest import run
from ..support.signal_clients import meeting

RIGHT, OTHER, WRONG = "right-token", "other-token", "wrong-token"
NEEDED = {
    "type": "error",
    "code": "access-token",
    "message": "this server requires an access token",
}
DENIED = NEEDED | {"message": "this server does not accept your access token"}


def join(access: str | None) -> Join:
    return Join(room="R", access=access)


def test_a_server_without_tokens_admits_everybody() -> None:
    for access in (None, RIGHT):
        Access().check(join(access))


def test_a_private_server_admits_who_has_one_of_its_tokens() -> None:
    access = Access([RIGHT, OTHER])
    access.check(join(RIGHT))
    access.check(join(OTHER))
    for token in (None, WRONG, "", RIGHT[:-1], f"{RIGHT} ", RIGHT.upper()):
        with pytest.raises(Refused) as caught:
            access.check(join(token))
        assert caught.value.code is Code.ACCESS_TOKEN and not caught.value.fatal


def test_a_server_whose_last_token_is_gone_is_still_private() -> None:
    assert not Access([]).admits(join(""))
    assert not Access([]).admits(join(None))


def test_tokens_are_replaced_as_a_whole() -> None:
    access = Access([RIGHT])
    access.replace([OTHER])
    assert not access.admits(join(RIGHT)) and access.admits(join(OTHER))


def test_neither_a_token_nor_its_plain_hash_is_kept() -> None:
    one, other = Access([RIGHT]), Access([RIGHT])
    assert one._hashes != other._hashes, "each process has its own key"
    assert RIGHT not in repr(join(RIGHT)) + repr(vars(one))


@given(st.text(min_size=1), st.text(min_size=1))
def test_only_the_same_text_is_admitted(token: str, sent: str) -> None:
    message = json.dumps({"type": "join", "room": "R", "access": sent})
    request = parse(message)
    assert isinstance(request, Join)
    assert Access([token]).admits(request) is (request.access is not None and sent == token)


@pytest.mark.parametrize("access", [7, None, [], {}, True, "x" * 257, "\ud800"])
def test_what_is_no_token_counts_as_none(access: Any) -> None:
    request = parse(json.dumps({"type": "join", "room": "R", "access": access}))
    assert isinstance(request, Join) and request.access is None


# -- the file


def tokens_of(path: Path, text: str | bytes) -> list[str]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return TokenFile(str(path)).read()


def test_a_file_has_a_token_a_line_and_comments(tmp_path: Path) -> None:
    text = "# of the course\nalice-token\n\n  bobs-token   # until July\r\nwith#inside\n\t#indented"
    assert tokens_of(tmp_path / "tokens", text) == ["alice-token", "bobs-token", "with#inside"]


SHORT = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "contains no token: write one a line"),
        ("# nobody\n\n", "contains no token: write one a line"),
        (f"alice-token\n{SHORT}", "has an invalid token in line 2: it must have 8 characters or more: use `openssl"),
        ("s3cr3t" * 50, "has an invalid token in line 1: it must have 256 bytes or fewer"),
        ("s3cr3t\x1bs3cr3t", "has an invalid token in line 1: it must not contain spaces or control characters"),
        ("alice s3cr3t-token", "has more than a token in line 1: write one a line, and a comment after #"),
        (b"s3cr3t-token\xff", "is not text in UTF-8"),
        ("#" * (LONGEST_FILE + 1), f"is longer than {LONGEST_FILE} characters"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_without_its_tokens(
    tmp_path: Path, text: str | bytes, told: str
) -> None:
    path = tmp_path / "tokens"
    with pytest.raises(SettingError) as caught:
        tokens_of(path, text)
    said = str(caught.value)
    assert said.startswith(f"the file of access tokens {str(path)!r} {told}")
    assert SHORT not in said.replace(str(path), "")


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "no such file or directory"), (tmp_path, "is a directory"), ("\0", "null")):
        with pytest.raises(SettingError, match=why):
            TokenFile(str(path)).read()


class Watched:
    """A file of tokens that a server watches."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_text(f"{RIGHT}\n")
        self.file = TokenFile(str(path))
        self.access = Access(self.file.read())

    def admitted(self, tokens: Iterable[str] = (RIGHT, OTHER)) -> list[str]:
        return [token for token in tokens if self.access.admits(join(token))]

    def move_in(self, text: str) -> None:
        """Replace the file in one step."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)


LOOKS = 3 * LOOK + 0.1
"""Enough for a change to be taken, in virtual time."""


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "tokens")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "signal_server")
    return caplog


@pytest.mark.usefixtures("in_virtual_time")
async def test_a_changed_file_is_used_however_it_was_replaced(watched: Watched, log: pytest.LogCaptureFixture) -> None:
    watching = asyncio.create_task(watched.file.watch(watched.access))
    await asyncio.sleep(LOOKS)
    assert log.messages == [], "nothing has changed"
    watched.move_in(f"{OTHER}\n")
    await asyncio.sleep(LOOKS)
    assert watched.admitted() == [OTHER]
    watched.path.write_text(f"{RIGHT}\n{OTHER} # in place\n")
    await asyncio.sleep(LOOKS)
    assert watched.admitted() == [RIGHT, OTHER]
    folder = watched.path.parent / "later"  # as Kubernetes replaces a secret that it has mounted
    folder.mkdir()
    (folder / "tokens").write_text(RIGHT)
    link = watched.path.with_suffix(".link")
    link.symlink_to(folder / "tokens")
    link.replace(watched.path)
    await asyncio.sleep(LOOKS)
    assert watched.admitted() == [RIGHT]
    assert log.messages == ["Access tokens: 1 are valid", "Access tokens: 2 are valid", "Access tokens: 1 are valid"]
    watching.cancel()


@pytest.mark.usefixtures("in_virtual_time")
@pytest.mark.parametrize("broken", ["", "two tokens-in-a-line", None])
async def test_a_file_that_has_become_unusable_leaves_the_earlier_tokens_and_is_told_once(
    broken: str | None, watched: Watched, log: pytest.LogCaptureFixture
) -> None:
    watching = asyncio.create_task(watched.file.watch(watched.access))
    if broken is None:
        watched.path.unlink()
    else:
        watched.move_in(broken)
    await asyncio.sleep(3 * LOOKS)
    assert watched.admitted() == [RIGHT]
    [told] = log.messages
    assert told.startswith(f"The earlier access tokens stay valid: the file of access tokens {str(watched.path)!r} ")
    assert "tokens-in-a-line" not in told
    watched.move_in(OTHER)
    await asyncio.sleep(LOOKS)
    assert watched.admitted() == [OTHER]
    watching.cancel()


@pytest.mark.usefixtures("in_virtual_time")
async def test_a_file_that_is_being_written_is_not_read(watched: Watched) -> None:
    watching = asyncio.create_task(watched.file.watch(watched.access))
    with watched.path.open("w") as file:
        for character in "half-of-a-token-and-more":
            file.write(character)
            file.flush()
            await asyncio.sleep(LOOK)
            assert watched.admitted() == [RIGHT]
    await asyncio.sleep(LOOKS)
    assert watched.admitted() == []
    watching.cancel()


# -- the server


async def test_who_has_no_token_learns_nothing_of_any_room(log: pytest.LogCaptureFixture) -> None:
    async with meeting(Limits(proxies=1), access=Access([RIGHT])) as clients:
        serve, proxy, stranger = [await clients.peer() for _ in range(3)]
        joined = await serve.join(role="serve", access=RIGHT)
        await proxy.join(role="proxy", access=RIGHT)
        for room in ("R", "another"):
            for more in ({}, {"role": "serve"}, {"role": "proxy", "token": joined["token"]}):
                assert await stranger.refused("join", room=room, **more) == NEEDED
                assert await stranger.refused("join", room=room, access=WRONG, **more) == DENIED
        assert (await stranger.refused("offer", sdp="x", to=joined["peerId"]))["code"] == "not-joined"
        assert (await stranger.refused("pipe", to=joined["peerId"]))["code"] == "not-joined"
        assert (await stranger.refused("join", room="R", role="proxy", access=RIGHT))["code"] == "room-full"
    assert not any(token in line for line in log.messages for token in (RIGHT, WRONG))


async def test_guesses_of_a_token_count_as_joins() -> None:
    async with meeting(Limits(members_each=5, joins=1), access=Access([RIGHT])) as clients:
        stranger = await clients.peer()
        codes = [(await stranger.refused("join", room="R", access=WRONG))["code"] for _ in range(7)]
        assert codes == ["access-token"] * 5 + ["address-limit"] * 2
        assert (await stranger.refused("join", room="R", access=RIGHT))["code"] == "address-limit"


async def test_a_members_token_does_not_replace_the_access_token_nor_its_delay() -> None:
    async with meeting(Limits(members_each=2, joins=1), access=Access([RIGHT])) as clients:
        serve, again = await clients.peer(), await clients.peer()
        await serve.join(role="serve", access=RIGHT)
        assert await again.refused("join", room="R", role="serve", token=serve.token) == NEEDED
        assert (await again.refused("join", room="R", role="serve", token=serve.token))["code"] == "address-limit"
        await again.join(role="serve", token=serve.token, access=RIGHT)


async def test_members_stay_when_their_token_is_withdrawn_until_they_join_again() -> None:
    access = Access([RIGHT])
    async with meeting(access=access) as clients:
        serve, proxy, late = [await clients.peer() for _ in range(3)]
        await serve.join(role="serve", access=RIGHT)
        access.replace([OTHER])
        await proxy.join(role="proxy", access=OTHER)
        assert (await serve.hear("peer-joined"))["peerId"] == proxy.id
        await serve.say("offer", sdp="x", to=proxy.id)
        assert (await proxy.hear("offer"))["peerId"] == serve.id
        assert await late.refused("join", room="R", role="serve", token=serve.token, access=RIGHT) == DENIED


async def test_the_ends_of_a_pipe_need_no_further_token_and_neither_does_a_health_check() -> None:
    async with meeting(access=Access([RIGHT])) as clients:
        serve, proxy = await clients.peer(), await clients.peer()
        await serve.join(role="serve", access=RIGHT)
        await proxy.join(role="proxy", access=RIGHT)
        await serve.hear("peer-joined")
        await proxy.say("pipe", to=serve.id)
        tickets = [(await each.hear("pipe"))["ticket"] for each in (serve, proxy)]
        left, right = [
            await clients.stack.enter_async_context(
                clients.http.ws_connect(clients.server.url, protocols=(PROTOCOL, ticket))
            )
            for ticket in tickets
        ]
        await left.send_bytes(b"hello")
        assert (await right.receive(timeout=10)).data == b"hello"
        async with clients.http.get(f"http{clients.server.url.removeprefix('ws')}/healthz") as answer:
            assert await answer.text() == "ok\n"


# -- the command line


@pytest.mark.parametrize("token", [SHORT, "s3cr3t s3cr3t", "s3cr3t" * 50])
def test_a_token_that_cannot_be_used_is_an_error_without_it(token: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError) as invalid:
        check_token(token)
    with pytest.raises(SystemExit) as caught:
        main(["--access-token", token])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert f"argument --access-token: the token {invalid.value}" in told and SHORT not in told


def test_a_file_that_cannot_be_used_ends_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--access-token-file", str(tmp_path / "none")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("cannot be read: no such file or directory")


def test_a_client_variable_does_not_make_a_server_private_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr("signal_server.process.run", lambda *args, **more: started.append(more) or 0)
    monkeypatch.setenv("TUNNEL_SIGNAL_TOKEN", RIGHT)
    assert main([]) == 0
    assert started[0]["access"] is None
    told = capsys.readouterr().err
    assert "this server admits everybody" in told and "TUNNEL_SIGNAL_ACCESS_TOKEN" in told and RIGHT not in told
    monkeypatch.setenv("TUNNEL_SIGNAL_ACCESS_TOKEN", OTHER)
    assert main([]) == 0
    assert capsys.readouterr().err == ""
    assert started[1]["access"].admits(join(OTHER)) and not started[1]["access"].admits(join(RIGHT))


def test_a_running_server_takes_a_changed_file(tmp_path: Path) -> None:
    from .test_process import server, url

    path = tmp_path / "tokens"
    path.write_text(RIGHT)

    async def answer(address: str, token: str) -> str:
        async with aiohttp.ClientSession() as http, http.ws_connect(address) as socket:
            await socket.send_json({"type": "join", "room": "R", "access": token})
            message: dict[str, str] = await socket.receive_json()
            return message.get("code", message["type"])

    with server("--listen", "127.0.0.1:0", "--access-token-file", str(path)) as process:
        address = url(process)
        assert run(answer(address, OTHER)) == "access-token"
        assert run(answer(address, RIGHT)) == "joined"
        new = tmp_path / "new"
        new.write_text(OTHER)
        os.replace(new, path)  # noqa: PTH105
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("Access tokens: 1 are valid" in line for line in lines)
        assert run(answer(address, OTHER)) == "joined"
        assert run(answer(address, RIGHT)) == "access-token"
        process.terminate()
        _, rest = process.communicate(timeout=10)
    assert RIGHT not in rest and OTHER not in rest
