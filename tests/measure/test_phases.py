"""What a phase takes from the other side, which may be anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from llmtunnel.endpoints.bench import MOST_TOKENS, TOKEN
from llmtunnel.errors import UpstreamBroken
from llmtunnel.measure import phases
from llmtunnel.measure.client import Address, Declined
from llmtunnel.measure.phases import Bounds

ENOUGH = Bounds(seconds=0.2, bytes=1_000_000)
Answer = Callable[[bytes], bytes]


def whole(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[Address]:
    """A server that gives each request what ``answer`` makes of its target."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b"chunked" in head:
                    await reader.readuntil(b"\r\n0\r\n\r\n")
                writer.write(answer(head.split(b" ")[1]))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**26)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield Address(host, port)


@pytest.mark.parametrize(
    "said",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"bytes": "many", "seconds": 1, "bytes_per_second": 1, "points": []}',
        b'{"bytes": 1, "seconds": 1, "bytes_per_second": 1, "points": 7}',
        b'{"bytes": 1, "seconds": 1, "bytes_per_second": 1e999, "points": [[1]]}',
        b'{"bytes": 1e999, "seconds": 1, "bytes_per_second": 1, "points": []}',
    ],
)
async def test_an_upload_of_which_the_other_side_says_nonsense_is_an_error(said: bytes) -> None:
    async with answering(lambda target: whole(said if target == b"/sink" else b"")) as address:
        with pytest.raises(UpstreamBroken, match="of an upload arrived"):
            await phases.upload(address, ENOUGH)


@pytest.mark.parametrize("rate", ["NaN", "Infinity", "-1", "0"])
async def test_a_rate_that_is_none_is_not_shown(rate: str) -> None:
    said = f'{{"bytes": 1, "seconds": 1, "bytes_per_second": {rate}, "points": [[NaN, 1], [1, 2]]}}'.encode()
    async with answering(lambda target: whole(said if target == b"/sink" else b"")) as address:
        assert await phases.upload(address, ENOUGH) is None


async def test_an_answer_that_does_not_end_takes_no_memory() -> None:
    async with answering(lambda target: whole(b"x" * 100_000)) as address:
        with pytest.raises(UpstreamBroken, match="too long"):
            await phases.latency(address, ENOUGH)


async def test_more_tokens_than_were_asked_for_are_not_kept() -> None:
    async with answering(lambda target: whole(TOKEN * 10 * MOST_TOKENS)) as address:
        found = await phases.tokens(address, ENOUGH, streams=2)
        assert found is None or found.samples <= 2 * MOST_TOKENS


async def test_a_limit_is_told_and_another_refusal_is_an_error() -> None:
    told = json.dumps({"error": {"message": "Enough."}}).encode()
    async with answering(lambda target: whole(told, "429 Too Many Requests")) as address:
        for measure in (phases.latency, phases.requests, phases.download, phases.upload):
            with pytest.raises(Declined, match="Enough"):
                await measure(address, ENOUGH)
    async with answering(lambda target: whole(b"[]", "404 Not Found")) as address:
        with pytest.raises(Declined, match="HTTP status 404"):
            await phases.requests(address, ENOUGH)


async def test_a_download_that_ends_by_itself_says_so() -> None:
    async with answering(lambda target: whole(b"x" * 3_000_000 if target == b"/source" else b"")) as address:
        found = await phases.download(address, Bounds(seconds=5.0, bytes=100_000_000))
        assert found is not None and found.bytes == 3_000_000
        assert found.limited_by == "serve has reached its limit for measurements"
        found = await phases.download(address, ENOUGH)
        assert found is not None and found.limited_by == "stopped after 1.0 MB"
