"""``llmtunnel web``: the page on this machine, and its files for another server."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from llmtunnel.cli.options import View, WebCommand, parse
from llmtunnel.cli.parsers import WEB
from llmtunnel.cli.web import export, pages
from llmtunnel.errors import SettingError
from llmtunnel.version import __version__
from signal_server.page_files import without_documentation
from signal_server.page_server import PageServer

from ..conftest import run
from ..support.embedded import until
from ..support.processes import Processes


def test_it_serves_the_page_on_this_machine(started: Processes) -> None:
    command = started.start("-m", "llmtunnel", "web", "--listen", "127.0.0.1:0", name="web")
    url = command.wait_line(r"page on (http://localhost:\d+/)")[1]
    port = url.rstrip("/").rpartition(":")[2]
    assert b"llmtunnel" in run(fetch(url))
    site = json.loads(run(fetch(f"{url}site.json")))
    assert site == {"signal": None, "app": f"http://*.localhost:{port}", "version": __version__}
    assert run(fetch(f"{url}core/invite.js")) == without_documentation((WEB / "core/invite.js").read_bytes())
    if os.name == "posix":
        command.interrupt()
        assert command.wait_exit() == 130


def test_programs_read_where_it_is(started: Processes) -> None:
    command = started.command("web", "--listen", "127.0.0.1:0")
    event = command.wait_event("listening")
    assert event["url"].startswith("http://localhost:")
    port = event["url"].rstrip("/").rpartition(":")[2]
    other = started.start("-m", "llmtunnel", "web", "--listen", f"127.0.0.1:{port}", name="other")
    assert other.wait_exit() == 2
    other.wait_line("in use by another program")


def test_it_says_that_browsers_need_tls_elsewhere(started: Processes) -> None:
    command = started.start("-m", "llmtunnel", "web", "--listen", "0.0.0.0:0", name="web")
    command.wait_line("Browsers run the page only over https")


def test_it_writes_the_chat_for_another_server(started: Processes, tmp_path: Path) -> None:
    folder = tmp_path / "public" / "chat"
    command = started.start("-m", "llmtunnel", "web", "--export", str(folder), name="export")
    command.wait_line(r"\d+ files are in ")
    assert command.wait_exit() == 0
    assert "Content-Security-Policy" in (folder / "index.html").read_text("utf-8")
    assert json.loads((folder / "site.json").read_bytes())["version"] == __version__
    assert [file.name for file in (folder / "app").iterdir()] == ["cookies.js"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match=r"--export: cannot write to .*file"):
        export(tmp_path / "file")


def test_an_empty_name_does_not_fill_the_current_folder() -> None:
    with pytest.raises(SettingError, match="--export: no folder was named"):
        parse(["web", "--export", ""], {})


def test_its_flags() -> None:
    assert parse(["web"], {}) == WebCommand(view=View(), listen="127.0.0.1:8001")
    assert parse(["web", "--export", "x", "--listen", "9"], {}) == WebCommand(view=View(), listen="9", export="x")


async def test_a_file_that_changes_is_read_again_and_the_page_outlives_an_upgrade_of_its_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "index.html"
    index.write_bytes(b"<head>1")
    async with serving(tmp_path) as (url, _):
        index.write_bytes(b"<head>22")
        assert await fetch(url) == b"<head>22"
        index.unlink()
        assert await fetch(url) == b"<head>22"
        index.write_bytes(b"<head>333")
        assert await fetch(url) == b"<head>333"
    assert not caplog.records


async def test_a_browser_that_does_not_read_is_cut_off_without_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("signal_server.page_server.PATIENCE", 0.2)
    (tmp_path / "index.html").write_bytes(b"<head>")
    (tmp_path / "big.png").write_bytes(bytes(8 * 1024 * 1024))
    async with serving(tmp_path) as (url, http):
        _, writer = await asyncio.open_connection("127.0.0.1", URL(url).port, limit=1024)
        writer.write(b"GET /big.png HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: http.connections, "it has come")
        await until(lambda: not http.connections, "the server cuts it off")
        writer.close()
    assert not caplog.records


async def test_what_is_no_http_leaves_no_traceback_in_the_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "index.html").write_bytes(b"<head>")
    async with serving(tmp_path) as (url, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # somebody has typed https://localhost:8001
        assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
        writer.close()
    assert not caplog.records


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[str, web.Server]]:
    """A server of the page's files in a folder: its address, and what it knows of its connections."""
    server = PageServer(folder, pages)
    listener = await asyncio.get_running_loop().create_server(await server.start(), "127.0.0.1", 0)
    http = server._runner.server
    assert http is not None
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/", http
    finally:
        listener.close()
        await server.aclose()


async def fetch(url: str) -> bytes:
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        assert response.status == 200
        return await response.read()
