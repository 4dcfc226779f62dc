"""An HTTP client that normalises nothing: bytes out, and exactly what came back."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .processes import PATIENCE, Address

Fields = tuple[tuple[bytes, bytes], ...]


class Broken(Exception):
    """The connection ended where HTTP needed more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response as it came."""

    version: bytes
    status: int
    reason: bytes
    fields: Fields
    body: bytes = b""
    whole: bool = True
    """Whether the body's own framing says that nothing is missing."""

    def values(self, name: bytes) -> list[bytes]:
        """The values of all fields of that name (in lower case)."""
        return [value for key, value in self.fields if key.lower() == name]


class Client:
    """One connection."""

    def __init__(self, address: Address, *, timeout: float = PATIENCE, receive_buffer: int = 0) -> None:
        """``receive_buffer``: bytes that the system holds for a client that does not read; 0: as many as it likes."""
        self.socket = socket.create_connection(address, timeout=timeout)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._buffer = bytearray()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave in order."""
        self.socket.close()

    def abort(self) -> None:
        """Leave with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def send(self, data: bytes, *, piece: int = 65_536) -> None:
        """Send all of it, or as much as is wanted: an answer that comes first ends the sending."""
        for start in range(0, len(data), piece):
            if start and self.answered:
                return
            with contextlib.suppress(ConnectionError):
                self.socket.sendall(data[start : start + piece])
                continue
            return

    @property
    def answered(self) -> bool:
        """Whether there is something to read, the end included."""
        return bool(self._buffer) or bool(select.select([self.socket], [], [], 0)[0])

    def ended(self) -> bool:
        """Whether the other side ends the connection, with nothing more to say."""
        try:
            return not self._buffer and not self.socket.recv(1)
        except ConnectionError:
            return True

    def responses(self, method: bytes) -> list[Response]:
        """The interim responses, then the final one."""
        found = [self.response(method)]
        while found[-1].status < 200 and found[-1].status != 101:
            found.append(self.response(method))
        return found

    def response(self, method: bytes = b"GET") -> Response:
        """The next response, whole or not. Raises `Broken` where none came."""
        head = self.head()
        body = bytearray()
        try:
            for piece in self.body(head, method):
                body += piece
        except Broken:
            return replace(head, body=bytes(body), whole=False)
        return replace(head, body=bytes(body))

    def head(self) -> Response:
        """The next response's head."""
        first, *lines = self._until(b"\r\n\r\n").split(b"\r\n")
        version, _, rest = first.partition(b" ")
        status, _, reason = rest.partition(b" ")
        if not version.startswith(b"HTTP/") or not status.isdigit():
            raise Broken(f"no HTTP: {first[:80]!r}")
        fields = [line.partition(b":") for line in lines]
        kept = tuple((name, value.strip(b" \t")) for name, _, value in fields)
        return Response(version=version, status=int(status), reason=reason, fields=kept)

    def body(self, head: Response, method: bytes) -> Iterator[bytes]:
        """The body that follows ``head``, as it comes (RFC 9112 section 6.3)."""
        if method == b"HEAD" or head.status in (204, 304) or head.status < 200:
            return iter(())
        if b"chunked" in b",".join(head.values(b"transfer-encoding")).lower():
            return self._chunks()
        if lengths := head.values(b"content-length"):
            return self._sized(int(lengths[0]))
        return self._rest()

    def _sized(self, left: int) -> Iterator[bytes]:
        while left:
            piece = self.some(left)
            left -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while size := self._chunk_size():
            yield from self._sized(size)
            if self.exactly(2) != b"\r\n":
                raise Broken("a chunk without its end")
        while self._until(b"\r\n"):
            pass

    def _chunk_size(self) -> int:
        line = self._until(b"\r\n")
        try:
            return int(line.partition(b";")[0], 16)
        except ValueError:
            raise Broken(f"no chunk size: {line[:80]!r}") from None

    def _rest(self) -> Iterator[bytes]:
        if self._buffer:
            yield self.some(len(self._buffer))
        while piece := self._receive():
            yield piece

    def some(self, most: int = 65_536) -> bytes:
        """At least one byte."""
        if not self._buffer:
            self._fill()
        taken = bytes(self._buffer[:most])
        del self._buffer[:most]
        return taken

    def exactly(self, count: int) -> bytes:
        """That many bytes."""
        while len(self._buffer) < count:
            self._fill()
        return self.some(count)

    def _until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            self._fill()
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return found

    def _fill(self) -> None:
        piece = self._receive()
        if not piece:
            raise Broken(f"the connection ended after {bytes(self._buffer[:80])!r}")
        self._buffer += piece

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(262_144)
        except ConnectionError as exc:
            raise Broken(f"the connection was reset: {exc}") from exc


def get(address: Address, target: str = "/", *, timeout: float = PATIENCE) -> Response:
    """One GET on a connection of its own."""
    return fetch(address, f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode(), timeout=timeout)


def fetch(address: Address, request: bytes, *, timeout: float = PATIENCE) -> Response:
    """The final response to ``request``, sent as it stands on a connection of its own."""
    with Client(address, timeout=timeout) as client:
        client.send(request)
        return client.responses(request.partition(b" ")[0])[-1]
