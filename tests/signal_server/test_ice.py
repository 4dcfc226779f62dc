from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aioice.stun import TransactionFailed
from aioice.turn import create_turn_endpoint

from llmtunnel.transport.servers import IceServer, allocate
from signal_server.cli import main
from signal_server.ice import LIFETIME, LONGEST, MOST, IceServers
from signal_server.limits import MAX_PROXIES, MESSAGE, Limits

from ..support.coturn import SECRET as COTURN_SECRET
from ..support.coturn import Coturn, coturn, needs_coturn
from ..support.ports import free_port
from ..support.signal_clients import meeting

SECRET = "north"
SERVERS = IceServers(
    stun=("stun:turn.example.org:3478",),
    turn=("turn:turn.example.org:3478", "turns:turn.example.org:443"),
    secret=SECRET,
)


def turn_of(ice: Any) -> dict[str, Any]:
    found: dict[str, Any] = ice["servers"][-1]
    return found


def test_credentials_are_those_of_turns_rest_scheme() -> None:
    ice = SERVERS.offer("203.0.113.5", now=1_000_000.9)
    assert ice["ttl"] == LIFETIME
    assert ice["servers"] == [{"urls": list(SERVERS.stun)}, turn_of(ice)]
    turn = turn_of(ice)
    assert turn["urls"] == list(SERVERS.turn)
    expiry, _, id = turn["username"].partition(":")
    assert int(expiry) == 1_003_600
    assert len(id) == 16
    expected = hmac.new(SECRET.encode(), turn["username"].encode(), hashlib.sha1).digest()
    assert base64.b64decode(turn["credential"]) == expected


def test_the_id_stands_for_the_address_and_does_not_reveal_it() -> None:
    """Coturn's quota of a user then counts by address, however often a member joins."""

    def id_of(servers: IceServers, address: str, now: float = 0.0) -> str:
        return str(turn_of(servers.offer(address, now=now))["username"].partition(":")[2])

    here = id_of(SERVERS, "203.0.113.5")
    assert here == id_of(SERVERS, "203.0.113.5", now=5000)
    assert here != id_of(SERVERS, "203.0.113.6")
    other = IceServers(turn=SERVERS.turn, secret="south")
    assert here != id_of(other, "203.0.113.5")
    assert not any(part in here for part in ("203", "113"))


def test_a_server_without_turn_hands_out_no_credentials() -> None:
    ice = IceServers(stun=("stun:a",)).offer("203.0.113.5", now=0)
    assert ice == {"servers": [{"urls": ["stun:a"]}], "ttl": LIFETIME}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"stun": ("turn:a",)}, "'turn:a' is not a STUN server"),
        ({"stun": ("stun:a:53",)}, "443 or above 1023"),
        ({"stun": ("stun:[::1]:3478",)}, "stun:host:port"),
        ({"stun": ("stun:" + "a" * LONGEST,)}, "not a STUN server"),
        ({"turn": ("https://a",), "secret": "x"}, "'https://a' is not a TURN server"),
        ({"turn": ("turn:a:22",), "secret": "x"}, "443 or above 1023"),
        ({"turn": ("turn:a:65536",), "secret": "x"}, "443 or above 1023"),
        ({"turn": ("turns:a?transport=udp",), "secret": "x"}, "not a TURN server"),
        ({"turn": ("turn:a",)}, "--turn-url needs the TURN servers' secret"),
        ({"secret": "x"}, "use --turn-url"),
        ({"stun": ("stun:a",) * MOST, "turn": ("turn:a",), "secret": "x"}, "5 servers, and peers use at most 4"),
    ],
)
def test_servers_that_peers_would_not_use_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        IceServers(**more)
    assert "x" not in str(caught.value).split()


def test_a_secret_shows_nowhere() -> None:
    assert SECRET not in repr(SERVERS)


async def test_the_list_of_the_fullest_room_fits_a_message_with_the_longest_servers() -> None:
    longest = tuple(f"turn:{'a' * (LONGEST - len('turn:') - 1)}{number}" for number in range(MOST))
    async with meeting(Limits(proxies=MAX_PROXIES), ice=IceServers(turn=longest, secret="x")) as here:
        unlimited = aiohttp.TCPConnector(limit=0)
        here.http = await here.stack.enter_async_context(aiohttp.ClientSession(connector=unlimited))
        for _ in range(MAX_PROXIES):
            await (await here.peer()).join(role="proxy", instance='"' * 128)
        serve = await here.peer()
        await serve.say("join", room="R", role="serve", instance='"' * 128)
        text = await serve.socket.receive_str()
        assert len(json.loads(text)["members"]) == MAX_PROXIES and longest[-1] in text
        assert len(text.encode()) <= MESSAGE


async def test_members_with_a_role_are_told_the_servers_when_they_join() -> None:
    async with meeting(ice=SERVERS) as here:
        proxy = await here.peer(address="203.0.113.5")
        joined = await proxy.join(role="proxy")
        assert [each["urls"] for each in joined["ice"]["servers"]] == [list(SERVERS.stun), list(SERVERS.turn)]
        assert turn_of(joined["ice"]).keys() == {"urls", "username", "credential"}
        serve = await here.peer(address="203.0.113.6")
        others = await serve.join(role="serve")
        assert turn_of(others["ice"])["username"] != turn_of(joined["ice"])["username"]
        texts = json.dumps([await proxy.hear("peer-joined"), others["members"]])
        assert "username" not in texts, "nobody gets the credentials of others"


async def test_a_member_asks_for_new_credentials_before_they_expire() -> None:
    async with meeting(ice=SERVERS) as here:
        proxy = await here.peer()
        first = (await proxy.join(role="proxy"))["ice"]
        await proxy.say("ice")
        again = await proxy.hear("ice")
        assert again.keys() == {"type", "ice"}
        assert [each["urls"] for each in again["ice"]["servers"]] == [each["urls"] for each in first["servers"]]
        expiries = [int(turn_of(each)["username"].partition(":")[0]) for each in (first, again["ice"])]
        assert expiries[1] >= expiries[0]


async def test_original_peers_are_told_byte_for_byte_what_a_server_without_servers_tells() -> None:
    told = []
    for ice in (None, SERVERS):
        async with meeting(ice=ice) as here:
            first, second = await here.peer(), await here.peer()
            said = []
            for peer in (first, second):
                await peer.say("ice")
                said.append(await peer.socket.receive_str())
                await peer.say("join", room="R")
                said.append(await peer.socket.receive_str())
                await peer.say("ice")
                said.append(await peer.socket.receive_str())
            ids = [json.loads(text)["peerId"] for text in said if '"joined"' in text]
            for number, id in enumerate(ids):
                said = [text.replace(id, str(number)) for text in said]
            told.append(said)
    assert told[0] == told[1]
    assert [json.loads(text)["type"] for text in told[1]] == ["error", "joined", "error"] * 2


async def test_a_server_without_servers_knows_no_such_request() -> None:
    async with meeting() as here:
        serve = await here.peer()
        assert "ice" not in await serve.join(role="serve")
        assert (await serve.refused("ice"))["code"] == "unknown-type"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--turn-url", "turn:a"], "--turn-secret-file"),
        (["--turn-secret", SECRET], "--turn-url"),
        (["--stun", "stun:a"] * 5, "at most 4"),
    ],
)
def test_the_command_line_says_what_does_not_fit_together(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv, prog="llmtunnel signal") == 2
    error = capsys.readouterr().err
    assert error.startswith("llmtunnel signal: error: ") and error.count("\n") == 1
    assert said in error and SECRET not in error


def test_a_url_that_peers_would_not_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--turn-url", "turn:a:25"])
    assert "'turn:a:25' is not a TURN server" in capsys.readouterr().err


def test_the_secret_comes_from_a_file_or_a_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[IceServers | None] = []

    def run(*_: object, ice: IceServers | None, **__: object) -> int:
        given.append(ice)
        return 0

    monkeypatch.setattr("signal_server.process.run", run)
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n", "utf-8")
    assert main(["--turn-url", "turn:a", "--turn-secret-file", str(file)]) == 0
    monkeypatch.setenv("TUNNEL_SIGNAL_TURN_SECRET", SECRET)
    monkeypatch.setenv("TUNNEL_SIGNAL_TURN_URL", "turn:a")
    monkeypatch.setenv("TUNNEL_SIGNAL_STUN", "stun:a stun:b")
    assert main([]) == 0
    assert given == [
        IceServers(turn=("turn:a",), secret=SECRET),
        IceServers(stun=("stun:a", "stun:b"), turn=("turn:a",), secret=SECRET),
    ]


CONF = Path(__file__).resolve().parents[2] / "deploy/turnserver.conf"


@needs_coturn
async def test_coturn_accepts_each_option_of_our_file_and_the_secret_after_a_change(tmp_path: Path) -> None:
    """As it stands there, but for its port, with the lines that its head asks for, and with a secret beside the old."""
    port, conf = free_port(), CONF.read_text("utf-8")
    assert "listening-port=3478\n" in conf
    conf = conf.replace("listening-port=3478\n", f"listening-port={port}\n")
    file = tmp_path / "turnserver.conf"
    file.write_text(f"{conf}realm=turn.example.org\nstatic-auth-secret=old\nstatic-auth-secret={SECRET}\n", "utf-8")
    turn = Coturn(tmp_path, "-c", str(file), port=port)
    await turn.start()
    try:
        for secret in ("old", SECRET):
            told = turn_of(IceServers(turn=(turn.url,), secret=secret).offer("203.0.113.5", now=time.time()))
            server = IceServer(url=turn.url, user=told["username"], password=told["credential"])
            assert (await allocate(server))[0] == "127.0.0.1"
        assert "Bad configuration" not in turn.log
        for host in ("127.0.0.1", "10.1.2.3", "100.64.0.1", "169.254.169.254", "172.20.0.1", "192.168.1.1"):
            assert not await reaches(server, host)
        assert await reaches(server, "8.8.8.8")
    finally:
        turn.stop()


@needs_coturn
async def test_a_quota_of_coturn_counts_all_members_of_an_address(tmp_path: Path) -> None:
    async with coturn(tmp_path, "--user-quota", "2") as turn:
        handed = IceServers(turn=(turn.url,), secret=COTURN_SECRET)
        kept = []
        try:
            for number in range(2):
                made = await turn_endpoint(turn, handed, "203.0.113.5", now=time.time() + number)
                kept.append(made)
            with pytest.raises(TransactionFailed, match="486"):
                await turn_endpoint(turn, handed, "203.0.113.5", now=time.time() + 5)
            kept.append(await turn_endpoint(turn, handed, "203.0.113.6", now=time.time()))
        finally:
            for transport, protocol in kept:
                transport.close()
                await protocol.closed


async def turn_endpoint(turn: Coturn, handed: IceServers, address: str, *, now: float) -> Any:
    """An allocation with what the member of an address is told at that time."""
    told = turn_of(handed.offer(address, now=now))
    return await create_turn_endpoint(Ended, ("127.0.0.1", turn.port), told["username"], told["credential"])


async def reaches(server: IceServer, host: str) -> bool:
    """Whether coturn would send to the host for us."""
    uri = server.url.removeprefix("turn:").split(":")
    transport, protocol = await create_turn_endpoint(Ended, (uri[0], int(uri[1])), server.user, server.password)
    try:
        await transport._TurnTransport__inner_protocol.channel_bind(0x4000, (host, 40_000))
    except TransactionFailed as exc:
        assert "403" in str(exc), exc
        return False
    finally:
        transport.close()
        await protocol.closed
    return True


class Ended(asyncio.DatagramProtocol):
    """The end of an allocation."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
