"""A signal server with the page, whose credentials for TURN expire soon. No flag of a user sets that time.

python -m tests.support.handing_out ADDRESS TURN SECRET SECONDS
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from signal_server.cli import parse_address
from signal_server.ice import IceServers
from signal_server.page_files import read_folder
from signal_server.pages import Pages
from signal_server.server import SignalServer

from .processes import ROOT


async def main(address: str, turn: str, secret: str, seconds: str) -> None:
    host, port = parse_address(address)
    ice = IceServers(turn=(turn,), secret=secret, lifetime=float(seconds))
    async with SignalServer(host, port, ice=ice, pages=Pages(files=read_folder(ROOT / "llmtunnel/web"))) as server:
        print(f"signal server listening on {server.url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
