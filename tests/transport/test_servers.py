"""What we contact when the signal server names STUN and TURN servers: real sockets, and a real coturn."""

from __future__ import annotations

import asyncio
import datetime
import logging
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llmtunnel.config import IceServers, Limits
from llmtunnel.errors import ConnectFailed
from llmtunnel.transport.networks import Reach
from llmtunnel.transport.servers import IceServer, addresses, allocate, connect, each_of, mappings
from llmtunnel.transport.webrtc import WebRtcPeer
from signal_server.ice import IceServers as Handed

from ..support.coturn import SECRET, Coturn, coturn, needs_coturn
from ..support.embedded import PATIENCE
from ..support.ports import free_port
from ..support.webrtc_ends import End

PAGE = (Path(__file__).resolve().parents[2] / "docs/howto/turn.md").read_text("utf-8")
HOSTILE = [
    *("turn:127.0.0.1:{port}", "turn:localhost:{port}?transport=tcp", "turn:127.0.0.1:{port}?transport=tcp"),
    *("turn:169.254.169.254:8080", "turn:10.0.0.1", "turn:192.168.0.1", "turn:0.0.0.0:{port}?transport=tcp"),
    *("stun:127.0.0.1:{port}", "stun:localhost:{port}", "stun:0:{port}", "turn:2130706433:{port}?transport=tcp"),
    *("turn:0x7f.1:{port}?transport=tcp", "turn:127.1:{port}", "turns:localhost:{port}"),
]


class Names:
    """What a name server answers: the next answer each time, and then the last one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._look_up, raising=False)

    async def _look_up(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (each, port)) for each in answer.split()]


@pytest.fixture(name="listener")
def make_listener() -> Iterator[socket.socket]:
    """A service of this machine, on TCP and UDP, that nobody may contact."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def named(url: str, within: Reach | None = Reach.PUBLIC) -> IceServer:
    turn = url.startswith("turn")
    return IceServer(url=url, user="u" if turn else None, password="p" if turn else None, within=within)


@pytest.mark.parametrize("url", HOSTILE)
async def test_a_public_signal_server_cannot_make_us_contact_this_machine_or_its_network(
    url: str, listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    server = named(url.format(port=port))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", port))
        udp.setblocking(False)
        peer = WebRtcPeerOf(server)
        await peer.gather()
        with pytest.raises((ConnectFailed, OSError)):
            await addresses(server)
        if server.is_turn:
            with pytest.raises(ConnectFailed, match=r"may not name|Cannot look up"):
                await allocate(server)
        else:
            (answer,) = await mappings([server])
            assert isinstance(answer, ConnectFailed)
        for each in (listener.accept, lambda: udp.recv(100)):
            with pytest.raises(BlockingIOError):
                each()


class WebRtcPeerOf:
    """A peer that uses these servers."""

    def __init__(self, *servers: IceServer) -> None:
        self.end = End()
        self.end.peer = WebRtcPeer(
            servers=servers,
            timeouts=self.end.peer._timeouts,
            limits=Limits(),
            identity=self.end.peer._identity,
            on_candidate=self.end.candidate_found,
            loopback=True,
        )

    async def gather(self) -> list[str]:
        """The candidates that the servers have given."""
        await self.end.peer.offer()
        await self.end.until(lambda: bool(self.end.candidates) and self.end.candidates[-1].candidate == "")
        await self.end.peer.aclose()
        return [each.candidate for each in self.end.candidates if each.candidate]


async def test_of_a_names_addresses_only_those_that_may_be_named_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, "127.0.0.1 8.8.8.8 169.254.169.254 10.0.0.1 ::ffff:127.0.0.1 1.1.1.1")
    assert await addresses(named("turn:a")) == [("8.8.8.8", 3478), ("1.1.1.1", 3478)]
    assert [host for host, _ in await addresses(named("turn:a", Reach.PRIVATE))] == ["8.8.8.8", "10.0.0.1", "1.1.1.1"]
    assert len(await addresses(named("turn:a", Reach.LOOPBACK))) == 4
    assert (await addresses(named("turn:a", None)))[0] == ("127.0.0.1", 3478)


async def test_of_hundreds_of_addresses_a_few_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, " ".join(f"8.8.{number}.8" for number in range(200)))
    assert len(await addresses(named("turn:a"))) == 4


async def test_we_connect_to_the_address_that_was_checked_whatever_the_name_means_a_moment_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = Names(monkeypatch, "8.8.8.8", "127.0.0.1")
    used: list[tuple[str, int]] = []

    async def use(address: tuple[str, int]) -> None:
        used.append(address)

    await connect(named("turn:a"), use)
    assert used == [("8.8.8.8", 3478)]
    assert names.asked == ["a"]
    with pytest.raises(ConnectFailed, match="may not name"):
        await connect(named("turn:a"), use)
    assert used == [("8.8.8.8", 3478)]


async def test_a_name_that_comes_to_mean_this_machine_is_contacted_no_more(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """Each gathering looks the name up again, and checks what it finds."""
    caplog.set_level(logging.INFO)
    names = Names(monkeypatch, "127.0.0.1")
    server = named(f"turn:rebound.example:{listener.getsockname()[1]}?transport=tcp")
    assert await WebRtcPeerOf(server).gather() == []
    assert names.asked == ["rebound.example"]
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert "may not name" in caplog.text
    for credential in (server.user, server.password):
        assert f"'{credential}'" not in caplog.text


async def test_the_next_address_is_tried_if_one_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, "8.8.8.8 1.1.1.1")

    async def use(address: tuple[str, int]) -> str:
        if address[0] == "8.8.8.8":
            raise ConnectionRefusedError
        return address[0]

    assert await connect(named("turn:a"), use) == "1.1.1.1"


def handed_out(turn: Coturn, *, secret: str = SECRET, lifetime: float = 3600.0, now: float) -> IceServer:
    """What a signal server on this machine hands out."""
    (entry,) = Handed(turn=(turn.url,), secret=secret, lifetime=lifetime).offer("203.0.113.5", now=now)["servers"]  # type: ignore[misc,attr-defined]
    made = IceServers(stun=(), turn=(turn.url,), turn_user=entry["username"], turn_pass=entry["credential"])
    (server,) = each_of(made, Reach.LOOPBACK)
    return server


@needs_coturn
async def test_coturn_accepts_credentials_until_they_expire_and_no_others(tmp_path: Path) -> None:
    async with coturn(tmp_path) as turn:
        now = time.time()
        host, port = await allocate(handed_out(turn, now=now))
        assert host == "127.0.0.1" and port
        for refused in (
            handed_out(turn, now=now, secret="another one"),
            handed_out(turn, now=now - 3610),
            IceServer(url=turn.url, user="me", password="guess", within=Reach.LOOPBACK),
        ):
            with pytest.raises(ConnectFailed, match="rejected the user name or password") as caught:
                await allocate(refused)
            assert "signal server and the TURN server" in caught.value.hint
            assert refused.password is not None and refused.password not in str(caught.value)


def certified(path: Path, name: str) -> Path:
    """A certificate for a name alone, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=subject, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path.write_bytes(
        signed.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    return path


@needs_coturn
@pytest.mark.usefixtures("on_each_loop")
@pytest.mark.parametrize(("name", "good"), [("localhost", True), ("other.example", False)])
async def test_over_tls_the_certificate_is_that_of_the_name_and_not_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, good: bool
) -> None:
    certificate = certified(tmp_path / "server.pem", name)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    port = free_port()
    turn = Coturn(
        tmp_path,
        *("-n", "--allow-loopback-peers", "-r", "lab", "--use-auth-secret", "--static-auth-secret", SECRET),
        *("--no-dtls", "--cert", str(certificate), "--pkey", str(certificate), "--tls-listening-port", str(port)),
    )
    await turn.start()
    try:
        plain = handed_out(turn, now=time.time())
        server = IceServer(url=f"turns:localhost:{port}", user=plain.user, password=plain.password, within=plain.within)
        async with asyncio.timeout(PATIENCE):
            if good:
                assert (await allocate(server))[0] == "127.0.0.1"
                assert any(" typ relay " in each for each in await WebRtcPeerOf(server).gather())
            else:
                with pytest.raises(ConnectFailed) as caught:
                    await allocate(server)
                assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    finally:
        turn.stop()


@needs_coturn
async def test_the_documentations_file_for_coturn_works_with_the_user_that_is_in_it(tmp_path: Path) -> None:
    [conf] = re.findall(r"^```text\n# turnserver\.conf\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    port = free_port()
    assert "listening-port=3478\n" in conf and "user=me:secret\n" in conf
    file = tmp_path / "turnserver.conf"
    file.write_text(conf.replace("listening-port=3478\n", f"listening-port={port}\n"), "utf-8")
    turn = Coturn(tmp_path, "-c", str(file), port=port)
    await turn.start()
    try:
        assert (await allocate(IceServer(url=turn.url, user="me", password="secret")))[0] == "127.0.0.1"
        assert "Bad configuration" not in turn.log
    finally:
        turn.stop()
