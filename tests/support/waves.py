"""Waves of hostile clients of a signal server: many short connections from many addresses, each with another attack.

A test or a benchmark plays `wave` after `wave`, and compares what the server's process holds after each of them.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

from signal_server.limits import HEAD, MESSAGE
from signal_server.relay import PROTOCOL

from .embedded import until
from .processes import Signal
from .signal_clients import HANDSHAKE, masked

LONGEST: Final = 30.0
"""Seconds after which a client gives up whatever it is doing."""
STARTED: Final = b"HTTP/1.1 101"


class Client:
    """One connection, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: Random) -> None:
        self.reader, self.writer, self.rng = reader, writer, rng
        self.joined = False

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def hear(self, wanted: bytes) -> None:
        """Read until these bytes have come, or the server closes."""
        heard = b""
        while wanted not in heard and (data := await self.reader.read(65_536)):
            heard = heard[-64:] + data

    async def open(self, protocols: str = "") -> None:
        field = f"Sec-WebSocket-Protocol: {protocols}\r\n".encode() if protocols else b""
        await self.say(HANDSHAKE.removesuffix(b"\r\n") + field + b"\r\n")
        await self.hear(b"\r\n\r\n")

    async def join(self, **members: object) -> None:
        await self.open()
        room = self.rng.choice([f"room {self.rng.random()}", f"room {self.rng.randrange(100)}"])
        await self.say(text(type="join", **{"room": room, **members}))
        await self.hear(b'"type"')
        self.joined = True

    async def end(self) -> None:
        """Wait until the server has closed."""
        while await self.reader.read(65_536):
            pass


def text(**members: object) -> bytes:
    """A message as a frame."""
    return frame(0x81, json.dumps(members).encode())


def frame(first: int, payload: bytes) -> bytes:
    """A masked frame of any size, whose mask is zero."""
    if len(payload) < 126:
        return masked(first, payload)
    length = b"\xfe" + len(payload).to_bytes(2) if len(payload) < 65_536 else b"\xff" + len(payload).to_bytes(8)
    return bytes([first]) + length + bytes(4) + payload


async def silent(client: Client) -> None:
    await asyncio.sleep(client.rng.random() / 2)


async def garbage(client: Client) -> None:
    await client.say(client.rng.randbytes(client.rng.randrange(1, 4000)))
    await client.end()


async def half_a_head(client: Client) -> None:
    await client.say(HANDSHAKE[: client.rng.randrange(len(HANDSHAKE))])


async def endless_head(client: Client) -> None:
    await client.say(b"GET / HTTP/1.1\r\n", *[b"X: %s\r\n" % (b"x" * 4000)] * (HEAD // 4000 + 2))
    await client.end()


async def body(client: Client) -> None:
    await client.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", bytes(HEAD))
    await client.end()


async def plain(client: Client) -> None:
    path = client.rng.choice(["/healthz", "/readyz", "/" + "x" * 3000, "/%00"])
    await client.say(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await client.end()


async def upgrade_alone(client: Client) -> None:
    await client.open()


async def member(client: Client) -> None:
    await client.join(role=client.rng.choice(["serve", "proxy", "x", None]), instance="i" * client.rng.randrange(200))


async def member_that_leaves(client: Client) -> None:
    await client.join()
    await client.say(text(type="bye"), frame(0x88, b"\x03\xe8"))
    await client.end()


async def guesser(client: Client) -> None:
    await client.open()
    for number in range(5):
        await client.say(text(type="join", room=f"{client.rng.random()}", access=f"guess {number}", token="t"))
        await client.hear(b'"type"')
        await client.say(text(type="bye"))


async def nonsense(client: Client) -> None:
    await client.join()
    for said in ("[" * 5000, "{}", '{"type":7}', '{"type":"pipe","to":7}', '{"type":"offer"}', "\ufffd" * 100):
        await client.say(frame(0x81, said.encode()))
    await client.say(frame(0x82, b"binary"), frame(0x81, b"\xff\xfe"))
    await client.end()


async def too_large(client: Client) -> None:
    await client.join()
    await client.say(frame(0x81, b"x" * (MESSAGE + 1)))
    await client.end()


async def flood(client: Client) -> None:
    await client.join(role="proxy")
    await client.say(*[client.rng.choice([masked(0x81), masked(0x89), masked(0x01), masked(0x00)]) * 500] * 4)
    await client.end()


async def unfinished(client: Client) -> None:
    await client.join()
    await client.say(frame(0x01, b"x" * 60_000), frame(0x80, b"x" * 60_000)[:1000])


async def talker_that_does_not_read(client: Client) -> None:
    await client.join(role="serve")
    await client.say(*[text(type="no such type " + "x" * 1000)] * 50)


async def pipe_without_ticket(client: Client) -> None:
    await client.open(f"{PROTOCOL}, {client.rng.random()}")
    await client.end()


KINDS: Final[list[Callable[[Client], Awaitable[None]]]] = [
    *(silent, garbage, half_a_head, endless_head, body, plain, upgrade_alone, member, member_that_leaves, guesser),
    *(nonsense, too_large, flood, unfinished, talker_that_does_not_read, pipe_without_ticket),
]


async def wave(address: tuple[str, int], count: int, *, seed: int, at_once: int = 200) -> Counter[str]:
    """Play so many hostile connections, from addresses of 127.0.0.0/8 on Linux. Returns how many of each kind.

    ``joined`` counts those that the server has let into a room, or told why not.
    """
    rng, played = Random(seed), Counter[str]()
    places = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        own = Random(f"{seed} {number}")
        kind = KINDS[number % len(KINDS)]
        source = f"127.{own.randrange(1, 255)}.{own.randrange(256)}.{own.randrange(1, 255)}"
        try:
            with suppress(ConnectionError, TimeoutError):
                reader, writer = await asyncio.open_connection(*address, local_addr=(source, 0))
                client = Client(reader, writer, own)
                try:
                    async with asyncio.timeout(LONGEST):
                        await kind(client)
                finally:
                    played[kind.__name__] += 1
                    played["joined"] += client.joined
                    _close(client)
        finally:
            places.release()

    async with asyncio.TaskGroup() as group:
        for number in rng.sample(range(count), count):
            await places.acquire()
            group.create_task(one(number))
    return played


def _close(client: Client) -> None:
    """End the connection, half of the time with a reset."""
    if client.rng.random() < 0.5 and not client.writer.transport.is_closing():
        connection = client.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.writer.transport.abort()


FLAGS: Final = ("--trusted-proxy", "192.0.2.1", "--log-level", "error")
"""What a server needs so that each connection's own address counts."""


async def held(
    signal: Signal, count: int, measure: Callable[[], int], *, waves: int = 4, at_once: int = 200
) -> list[int]:
    """Play the waves against a server that has `FLAGS`. Returns what is measured after each, by a call that blocks."""
    files = Path(f"/proc/{signal.process.pid}/fd")
    before = _count(files)
    measured = []
    for number in range(waves):
        played = await wave(("127.0.0.1", signal.port), count, seed=number, at_once=at_once)
        assert sum(played[kind.__name__] for kind in KINDS) > count * 0.9, f"the server has not taken them: {played}"
        assert played["joined"] > count / 4, f"few have got as far as a room: {played}"
        await until(lambda: _count(files) <= before, "the server has closed all connections")
        measured.append(await asyncio.to_thread(measure))
    return measured


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())
