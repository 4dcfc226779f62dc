"""What the panel costs: the processor's time of a kernel that serves 64 token streams, without it and with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import start_new_async_kernel

from .harness import PATIENCE, ROOT, Failed, Rig, ground
from .latency import ROUNDS, Load
from .report import Row

SERVE: Final = """
import sys, time
sys.path.insert(0, {root!r})
import llmtunnel
from llmtunnel.notebook.panel import Panel
server = llmtunnel.serve({upstream!r}, room={room!r}, signal={signal!r}, stun=())
"""


async def panel(quick: bool) -> list[Row]:
    """64 streams of 30 tokens a second each, through a serve in a kernel."""
    load = Load(streams=64, rate=30, seconds=1 if quick else 6)
    without = shown = 0.0
    async with ground() as rig, _kernel(rig) as kernel:
        await rig.proxy()
        await rig.answered()
        for _ in range(ROUNDS):
            without += await kernel.seconds(load, rig)
            await kernel.run("panel = Panel(server)")
            shown += await kernel.seconds(load, rig)
            await kernel.run("panel.close()")
        await kernel.run("server.close()")
    seconds = load.seconds * ROUNDS
    return [
        Row(
            figure="processor of a notebook's serve, panel open",
            direct=f"{without / seconds:.1%}",
            tunnel=f"{shown / seconds:.1%}",
            result=f"{shown / without - 1:+.1%}",
        )
    ]


@dataclass(slots=True)
class _Kernel:
    client: AsyncKernelClient

    async def run(self, code: str, value: str = "None") -> float | None:
        """Run code, and the value of an expression after it. Raises `Failed`."""
        self.client.execute(code, silent=True, user_expressions={"value": value})
        reply = (await self.client.get_shell_msg(timeout=PATIENCE))["content"]
        if reply["status"] != "ok":
            raise Failed("\n".join(reply.get("traceback", ["the kernel failed"])))
        told = reply["user_expressions"]["value"]["data"]["text/plain"]
        return None if told == "None" else float(json.loads(told))

    async def seconds(self, load: Load, rig: Rig) -> float:
        """What the load takes of the processor, seconds."""
        before = await self.run("", "time.process_time()")
        await load.delays(rig.address)
        after = await self.run("", "time.process_time()")
        assert before is not None and after is not None
        return after - before


@asynccontextmanager
async def _kernel(rig: Rig) -> AsyncIterator[_Kernel]:
    """A kernel whose ``server`` serves the rig's upstream."""
    manager, client = await start_new_async_kernel(startup_timeout=PATIENCE)
    try:
        kernel = _Kernel(client)
        upstream = f"http://{rig.upstream[0]}:{rig.upstream[1]}"
        await kernel.run(SERVE.format(root=str(ROOT), upstream=upstream, room=rig.room, signal=rig.signal_url))
        yield kernel
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
