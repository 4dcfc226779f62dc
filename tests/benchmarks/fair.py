"""Share a narrow link in the small internet (`tests/netlab`): with TCP, with another tunnel, with a small request.

It needs root, and runs by name only. ``python -m tests.benchmarks.fair tcp`` is TCP's sender, at host-a.
``python -m tests.benchmarks.fair flows SECONDS FLOW…`` is the client, at host-b: a flow is the port of a proxy, or
the name of a congestion control of TCP. ``python -m tests.benchmarks.fair ask SECONDS`` asks beside a bulk transfer.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from pathlib import Path
from typing import Final

from ..support.network_lab import SECRET, SIGNAL, STUN, Lab, lab
from .client import connect
from .far import bulk
from .loop import run
from .report import Row, ms, percentile

DELAY: Final = 14
"""Milliseconds of each link, each way. A round trip takes four of them, and 2 ms of the machine."""
RATE: Final = 20
"""Mbit/s, each way."""
QUEUE: Final = 610
"""KiB: 250 ms of that rate."""
WARM: Final = 5.0
"""Seconds until shares count."""
SECONDS: Final = 25.0
"""Seconds for which they count."""
SENDER: Final = ("10.10.0.2", 9100)
PORTS: Final = ("8000", "8001")
"""Those of the proxies."""
AVAILABLE: Final = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


async def fair(quick: bool) -> list[Row]:
    """All figures."""
    return await asyncio.to_thread(_measure, 5.0 if quick else SECONDS)


def _measure(seconds: float) -> list[Row]:
    where = f"{RATE} Mbit/s, 250 ms of queue"
    with lab("none", "none", delay=DELAY) as network:
        upstream = network.python("host-a", "tests.benchmarks.upstream")
        port = upstream.wait_line(r"upstream on port (\d+)")[1]
        network.python("host-a", "tests.benchmarks.fair", "tcp").wait_line("tcp on")
        network.meet("--path", "direct", *STUN, *SECRET, upstream=f"127.0.0.1:{port}").wait_path("direct")
        room = ("--room", "lab", "--signal", f"ws://{SIGNAL}", "--path", "direct", *STUN, *SECRET)
        second = network.python("host-b", "llmtunnel", "proxy", "--listen", f"127.0.0.1:{PORTS[1]}", "--json", *room)
        second.wait_line('"peer-connected".*"path": "direct"')
        network.link("a", "--rate", str(RATE), "--queue", str(QUEUE))
        asked = _client(network, seconds, "ask", str(seconds))
        rows = [Row(figure=f"{where}: {name}", tunnel=value) for name, value in asked.items()]
        known = AVAILABLE.read_text("ascii").split()
        for other in [name for name in ("cubic", "bbr") if name in known] + [PORTS[1]]:
            moved = _client(network, seconds, "flows", str(seconds), PORTS[0], other)
            ours, theirs = (f"{moved[name] / sum(moved.values()):.0%}" for name in (PORTS[0], other))
            beside = "another tunnel" if other == PORTS[1] else f"TCP ({other})"
            rows.append(
                Row(
                    figure=f"{where}: a bulk transfer beside {beside}, share",
                    direct=theirs,
                    tunnel=ours,
                    result=f"{sum(moved.values()) * 8 / 1e6 / seconds:.1f} Mbit/s in all",
                )
            )
    return rows


def _client(network: Lab, seconds: float, *arguments: str) -> dict[str, float]:
    client = network.python("host-b", "tests.benchmarks.fair", *arguments)
    figures: dict[str, float] = json.loads(client.wait_line(r"\{.*\}", timeout=3 * seconds + 60)[0])
    assert client.wait_exit() == 0, client.report()
    return figures


# -- at host-a


async def _tcp() -> None:
    """Send to whoever connects, by the congestion control that it names first."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = (await reader.readline()).strip()
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
        try:
            while True:
                writer.write(bytes(65_536))
                await writer.drain()
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(send, *SENDER)
    print("tcp on", flush=True)
    await server.serve_forever()


# -- at host-b


async def _flows(seconds: float, names: list[str]) -> dict[str, float]:
    """Bytes that each flow has received while they share the link."""
    moved = dict.fromkeys(names, 0)

    async def take(name: str) -> None:
        def count(data: bytes) -> None:
            moved[name] += len(data)

        if name.isdigit():
            async with connect(("127.0.0.1", int(name))) as client:
                await client.exchange(f"/bytes?{10**10}", sink=count)
        else:
            reader, writer = await asyncio.open_connection(*SENDER)
            writer.write(f"{name}\n".encode())
            while data := await reader.read(65_536):
                count(data)

    takers = [asyncio.create_task(take(name)) for name in names]
    await asyncio.sleep(WARM)
    before = dict(moved)
    await asyncio.sleep(seconds)
    shares = {name: float(moved[name] - before[name]) for name in names}
    for taker in takers:
        taker.cancel()
    await asyncio.gather(*takers, return_exceptions=True)
    return shares


async def _ask(seconds: float) -> dict[str, str]:
    """A bulk transfer alone, and how long small requests take meanwhile."""
    address = ("127.0.0.1", int(PORTS[0]))
    idle = [(await _get(address)) for _ in range(10)]
    speed, waits = await bulk(address, seconds, upload=False, ask=True)
    return {
        "bulk down, Mbit/s": f"{speed * 8:.1f}",
        "a small GET alone, p50": ms(percentile(idle, 0.5)),
        "a small GET beside bulk, p50": ms(percentile(waits, 0.5)),
        "a small GET beside bulk, p99": ms(percentile(waits, 0.99)),
    }


async def _get(address: tuple[str, int]) -> float:
    began = time.perf_counter()
    async with connect(address) as client:
        await client.exchange("/small")
    return time.perf_counter() - began


async def _main(verb: str, arguments: list[str]) -> None:
    if verb == "tcp":
        await _tcp()
    elif verb == "ask":
        print(json.dumps(await _ask(float(arguments[0]))))
    else:
        print(json.dumps(await _flows(float(arguments[0]), arguments[1:])))


if __name__ == "__main__":
    run(_main(sys.argv[1], sys.argv[2:]))
