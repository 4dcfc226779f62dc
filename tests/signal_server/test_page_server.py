"""The page at a real signal server: beside its rooms, and on the hosts that belong to web apps."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmtunnel.cli.parsers import WEB
from signal_server.cli import main
from signal_server.limits import Limits
from signal_server.messages import Code
from signal_server.page_files import read_folder
from signal_server.page_server import PIECE
from signal_server.pages import Host, Pages
from signal_server.relay import PROTOCOL

from ..support.embedded import settle, until
from ..support.signal_clients import Meeting, meeting

BIG = 8 * 1024 * 1024
"""More bytes than the sockets of both sides hold."""


def pages(folder: Path = WEB, **more: Any) -> Pages:
    return Pages(files=read_folder(folder), version="1.2", **more)


@asynccontextmanager
async def serving(limits: Limits | None = None, made: Pages | None = None, **more: Any) -> AsyncIterator[Meeting]:
    async with meeting(limits, pages=made or pages(), **more) as here:
        yield here


def at(here: Meeting, path: str) -> str:
    return here.server.url.replace("ws", "http", 1) + path


async def test_the_page_is_beside_the_rooms() -> None:
    async with serving() as here:
        peer = await here.peer("/")
        assert (await peer.join(role="serve"))["web"] is True
        async with here.http.get(at(here, "/"), headers={"Accept-Encoding": "gzip"}, auto_decompress=False) as got:
            assert (got.status, got.headers["Content-Encoding"]) == (200, "gzip")
            assert got.headers["Connection"] == "close"
            assert b"<html" in gzip.decompress(await got.read())
        async with here.http.get(at(here, "/site.json")) as got:
            port = here.address[1]
            assert await got.json() == {"signal": "same", "app": f"http://*.localhost:{port}", "version": "1.2"}
        async with here.http.get(at(here, "/healthz")) as got:
            assert await got.text() == "ok\n"
        async with here.http.get(at(here, "/no/such.js")) as got:
            assert got.status == 404
        async with here.http.head(at(here, "/core/invite.js")) as got:
            assert int(got.headers["Content-Length"]) > 1000


async def test_original_members_and_servers_without_a_page_say_nothing_of_it() -> None:
    async with serving() as here:
        assert "web" not in await (await here.peer()).join()
    async with meeting() as here:
        assert "web" not in await (await here.peer()).join(role="serve")
        async with here.http.get(at(here, "/")) as got:
            assert await got.text() == "llmtunnel signal server\n"


async def test_a_file_that_the_browser_has_is_not_sent_again() -> None:
    async with serving() as here:
        async with here.http.get(at(here, "/core/invite.js")) as got:
            tag = got.headers["ETag"]
        async with here.http.get(at(here, "/core/invite.js"), headers={"If-None-Match": tag}) as got:
            assert (got.status, await got.read()) == (304, b"")


async def test_an_app_reaches_neither_rooms_nor_pipes() -> None:
    async with serving() as here:
        host = {"Host": f"x.localhost:{here.address[1]}"}
        for protocols in ((), (PROTOCOL, "ticket")):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await here.http.ws_connect(here.server.url, headers=host, protocols=protocols)
            assert refused.value.status == 403
        for path in ("/", "/healthz", "/core/invite.js"):
            async with here.http.get(at(here, path), headers=host) as got:
                assert (got.status, got.headers["Cache-Control"]) == (404, "no-store")


async def test_what_an_app_uploads_past_the_tunnel_is_not_read() -> None:
    async with serving() as here:
        reader, writer = await asyncio.open_connection(*here.address)
        writer.write(b"POST /upload HTTP/1.1\r\nHost: x.localhost\r\nContent-Length: 100000000\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 404")
        with suppress(ConnectionError):
            await reader.read()  # until the server closes the connection
        writer.close()


async def test_a_browser_that_does_not_read_makes_the_server_hold_little(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_bytes(b"<html>")
    (tmp_path / "big.png").write_bytes(bytes(BIG))
    async with serving(made=pages(tmp_path)) as here:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, here.address)
            await loop.sock_sendall(client, b"GET /big.png HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await loop.sock_recv(client, 12)) == b"HTTP/1.1 200"
            [visitor] = here.server._visitors.values()
            _, paused = visitor.transport.get_write_buffer_limits()
            await until(lambda: visitor.transport.get_write_buffer_size() > paused, "the server waits")
            await settle()
            assert visitor.transport.get_write_buffer_size() <= 2 * paused + PIECE
            async with here.http.get(at(here, "/")) as got:
                assert got.status == 200


async def test_connections_for_the_page_keep_nobody_out() -> None:
    """They are strangers, and the oldest of those goes when a newcomer needs its place."""
    async with serving(Limits(sockets=40)) as here:
        idle = [await asyncio.open_connection(*here.address) for _ in range(60)]
        async with here.http.get(at(here, "/core/invite.js")) as got:
            assert got.status == 200
        await (await here.peer()).join(role="serve")
        for _, writer in idle:
            writer.close()


async def test_an_address_gets_only_so_much_of_the_page_while_others_and_rooms_go_on() -> None:
    length = len(read_folder(WEB)["core/invite.js"].data)
    limits = Limits(page_rate=1.0, page_burst=2.5 * length)
    plain = {"Accept-Encoding": "identity"}
    async with serving(limits) as here:
        for status in (200, 200, 429, 429):
            async with here.http.get(at(here, "/core/invite.js"), headers=plain) as got:
                assert got.status == status
        assert here.server.statistics.refused[Code.ADDRESS_LIMIT] == 2
        await (await here.peer()).join(role="serve")
        async with here.http.get(at(here, "/core/invite.js"), headers=plain | {"X-Forwarded-For": "192.0.2.1"}) as got:
            assert got.status == 200


async def test_only_a_server_in_front_says_which_scheme_the_browser_uses() -> None:
    names = {"host": Host.given("tunnel.example.org"), "app": Host.given("*.app.example.org", pattern=True)}
    fields = {"Host": "tunnel.example.org", "X-Forwarded-Proto": "http"}
    for trusted, scheme in ((("127.0.0.1/32",), "http"), (("10.0.0.0/8",), "https")):
        async with serving(made=pages(**names), trusted_proxies=trusted) as here:
            async with here.http.get(at(here, "/site.json"), headers=fields) as got:
                assert (await got.json())["app"] == f"{scheme}://*.app.example.org"
            other = fields | {"Host": "signal.example.org"}
            async with here.http.get(at(here, "/"), headers=other, allow_redirects=False) as got:
                assert (got.status, got.headers["Location"]) == (302, f"{scheme}://tunnel.example.org/")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--web-host", "a.example"], "there is no page for --web-host"),
        (["--web-folder", "/nowhere"], "--web-folder: the page cannot be read"),
        (["--web-folder", str(WEB), "--web-app-host", "*.a.example"], "--web-app-host: the app's host also needs"),
        (
            ["--web-folder", str(WEB), "--web-host", "a.b", "--web-app-host", "a.b:1"],
            "use another name for one of them",
        ),
        (["--web-host", "https://a.example"], "is not a host"),
        (["--web-host", "*.example"], "is not a host"),
    ],
)
def test_settings_that_contradict_each_other_are_explained(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(flags)
    except SystemExit as exc:
        status = exc.code
    assert status == 2
    assert told in capsys.readouterr().err
