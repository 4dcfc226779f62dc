"""A gateway in a process with few descriptors, whose requests wait for ever. Run by test_clients.py.

``python -m tests.support.crowded LIMIT asyncio|uvloop`` prints the address. Then a line on standard input is a
command: ``fill`` takes all descriptors that are left, ``free`` gives them back, each answered by ``done``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys

from llmtunnel.config import Timeouts
from llmtunnel.endpoints.gateway import Gateway
from llmtunnel.runtime import loop_factory

from .gateway_rig import CALLED, NoPeer


async def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    gateway = Gateway(NoPeer(), listen="127.0.0.1:0", policy=CALLED, timeouts=Timeouts(wait_for_peer=600))
    await gateway.start()
    print(gateway.addresses[0], flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    taken: list[int] = []
    while command := await reader.readline():
        if command == b"fill\n":
            try:
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
        else:
            while taken:
                os.close(taken.pop())
        print("done", flush=True)
    await gateway.aclose()


limit, loop = int(sys.argv[1]), sys.argv[2]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
with asyncio.Runner(loop_factory=loop_factory() if loop == "uvloop" else None) as runner:
    runner.run(main())
