"""``llmtunnel web``: serve the page that makes a browser a peer, or write it to a folder for another server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from signal_server.page_files import Files, read_folder
from signal_server.page_server import PageServer
from signal_server.pages import Pages, exported

from ..endpoints.listen import addresses_of, open_servers, parse_listen, port_of, url_of
from ..errors import SettingError
from ..listener import is_loopback
from ..status import Listening, Notice
from ..version import __version__
from .console import Console
from .parsers import WEB, WEB_PORT

if TYPE_CHECKING:
    from .options import WebCommand

INSECURE: Final = (
    "Browsers run the page only over https or on this machine. Put an HTTP server with TLS in front of this address."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported(Notice):
    """``web --export`` only: the page's files are written."""

    event: ClassVar[str] = "exported"
    folder: str
    """The folder."""
    files: int
    """Number of files."""


async def web(command: WebCommand, console: Console) -> int:
    """Serve the page until the task is cancelled, or write it to a folder. Returns the exit status."""
    if command.export is not None:
        folder = Path(command.export)
        count = export(folder)
        console.record(Exported(folder=str(folder), files=count))
        console.say(f"{count} files are in {folder}\n")
        return 0
    return await _serve(command.listen, console)


async def _serve(address: str, console: Console) -> int:
    listen = parse_listen(address, port=WEB_PORT)
    server = PageServer(WEB, pages)
    listeners: list[asyncio.Server] = []
    try:
        listeners = await open_servers(listen, await server.start())
        # The app's hosts are names below localhost. So the page is at that name too, rather than at an address.
        local = is_loopback(listen.host)
        url = f"http://localhost:{port_of(listeners[0])}/" if local else f"{url_of(listen, listeners)}/"
        console.record(Listening(url=url, addresses=addresses_of(listeners)))
        console.say(f"page on {url}\n")
        if not local:
            console.warn(INSECURE)
        await asyncio.Event().wait()  # until a signal cancels it
    finally:
        for each in listeners:
            each.close()
        await server.aclose()
    return 0


def pages(files: Files) -> Pages:
    """Return the page for codes that may name any signal server. Without one, the page uses the default."""
    return Pages(files=files, signal=None, version=__version__)


def export(folder: Path) -> int:
    """Write the page's files to a folder, and return their number. Raises `SettingError`."""
    files = exported(read_folder(WEB), version=__version__)
    try:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    except OSError as exc:
        why = (exc.strerror or str(exc)).lower()
        raise SettingError(
            f"--export: cannot write to {str(folder)!r}: {why}.", hint="Name a folder that you may write to."
        ) from exc
    return len(files)
