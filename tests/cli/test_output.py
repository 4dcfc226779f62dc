from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest

from llmtunnel.cli.output import BACKLOG, Output

FULL_DISK = Path("/dev/full")
FULL = 1024 * 1024
"""Characters that no pipe takes before its reader reads."""


@contextmanager
def pipe() -> Iterator[tuple[int, TextIO]]:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        try:
            yield reader, stream
        finally:
            os.close(reader)


needs_select = pytest.mark.skipif(os.name != "posix", reason="a pipe can be asked only there")


def test_each_line_is_written_at_once() -> None:
    with pipe() as (reader, stream):
        output = Output(stream)
        output.write("first\n")
        assert os.read(reader, 100) == b"first\n"


@needs_select
async def test_a_reader_that_does_not_read_is_not_waited_for_and_gets_the_rest_when_it_does() -> None:
    async def main() -> bytes:
        with pipe() as (reader, stream):
            output = Output(stream)
            output.write("x" * FULL + "\n")
            output.write("last\n")
            read = b""
            while not read.endswith(b"last\n"):
                read += await asyncio.to_thread(os.read, reader, FULL)
            return read

    read = await main()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert read == b"x" * FULL + b"\nlast\n"


@needs_select
async def test_what_waits_for_a_reader_is_bounded_and_the_end_does_not_wait_for_it() -> None:
    with pipe() as (_, stream):
        output = Output(stream)
        output.write("x" * FULL)
        for number in range(2 * BACKLOG):
            output.write(f"{number}\n")
        output.close()
        assert len(output.waiting) <= BACKLOG


def test_a_reader_that_is_gone_is_noticed_once_and_nothing_is_raised() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    gone = []
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        output = Output(stream)
        output.on_gone = lambda: gone.append(True)
        output.write("a\n")
        output.write("b\n")
        output.close()
    assert gone == [True]


@pytest.mark.skipif(not FULL_DISK.exists(), reason="a device that only Linux has")
def test_a_full_disk_ends_nothing() -> None:
    with FULL_DISK.open("w", encoding="utf-8") as stream:
        output = Output(stream)
        output.on_gone = lambda: pytest.fail("the reader is not gone")
        output.write("a\n")
        output.close()


def test_characters_that_the_stream_cannot_show_are_replaced() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Output(stream).write("naïve\n")
    assert stream.buffer.getvalue() == b"na?ve\n"
