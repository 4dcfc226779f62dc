"""Node.js, and the JavaScript core in a process of it: `Calls` calls its functions."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import pytest

HERE: Final = Path(__file__).parent
OLDEST: Final = 20
"""The first version of Node.js that has all that the core uses: WebCrypto, and modules as browsers have them."""


@cache
def node() -> str:
    """The program, or else the test is skipped."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node.js is not installed")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    major = re.match(r"v(\d+)", version)
    if major is None or int(major[1]) < OLDEST:
        pytest.skip(f"Node.js {OLDEST} or later is needed, and this is {version.strip()}")
    return found


class Handle:
    """An object in the other process."""

    def __init__(self, calls: Calls, number: int) -> None:
        self._calls, self.number = calls, number

    def call(self, name: str, *args: object) -> Any:
        return self._calls.ask(on=self.number, call=name, args=args)

    def get(self, name: str) -> Any:
        return self._calls.ask(on=self.number, get=name)


class JsError(Exception):
    """What a function has thrown."""

    def __init__(self, name: str, message: str, code: object, hint: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name, self.message, self.code, self.hint = name, message, code, hint


class Calls:
    """The process; see calls.js."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [node(), str(HERE / "calls.js")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdin and self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._to.close()
        assert self._process.wait(10) == 0
        self._from.close()

    def __call__(self, name: str, *args: object) -> Any:
        return self.ask(call=name, args=args)

    def get(self, name: str) -> Any:
        """What a module exports."""
        return self.ask(get=name)

    def new(self, name: str, *args: object) -> Handle:
        made = self.ask(new=name, args=args)
        assert isinstance(made, Handle)
        return made

    def ask(self, **asked: object) -> Any:
        self._to.write(json.dumps(asked, default=_pack).encode() + b"\n")
        while b"\n" not in self._read:
            more = self._from.read(1 << 20)
            assert more, "the process has ended"
            self._read += more
        line, self._read = self._read.split(b"\n", 1)
        said = json.loads(line, object_hook=self._unpack)
        if "error" in said:
            raise JsError(**said["error"])
        return said["result"]

    def _unpack(self, value: dict[str, Any]) -> Any:
        if "$bytes" in value:
            return base64.b64decode(value["$bytes"])
        if "$set" in value:
            return frozenset(value["$set"])
        return Handle(self, value["$handle"]) if "$handle" in value else value


def _pack(value: object) -> object:
    match value:
        case bytes() | bytearray() | memoryview():
            return {"$bytes": base64.b64encode(value).decode()}
        case frozenset() | set():
            return {"$set": sorted(value)}
        case Handle():
            return {"$handle": value.number}
    raise TypeError(type(value).__name__)
