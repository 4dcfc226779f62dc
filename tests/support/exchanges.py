"""The exchanges that must be the same through the tunnel as without it, byte for byte: what an exchange is, and those
whose request is what matters (``answered.py`` has the others)."""

from __future__ import annotations

from dataclasses import dataclass

from .raw_server import Answer, Do, reply
from .upstream import pattern

CLIENT_HOST = b"client.example:1234"
"""What clients here call the server: never the upstream's own name."""
OWN_ORIGIN = b"{own-origin}"
"""Stands for the upstream's origin in an answer, as its port is known only when it runs."""
MEGABYTES_20 = pattern(0, 20_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What a client sends on one connection, and what the upstream answers to each of it."""

    name: str
    requests: tuple[bytes, ...]
    answer: Answer = ()
    """Steps; empty for the usual "ok"."""
    pipelined: bool = False
    """All requests are sent before the first answer is read."""
    waits: bool = False
    """The body is sent when the answer to the head is 100, and not at all where it is another."""
    unread: bool = False
    """The upstream answers without reading the body, so how much of that comes is not told."""
    piece: int = 65_536
    """Bytes that the client sends at a time."""

    def __str__(self) -> str:
        return self.name


def request(
    method: bytes,
    target: bytes,
    *fields: bytes,
    body: bytes = b"",
    version: bytes = b"HTTP/1.1",
    host: bytes = CLIENT_HOST,
) -> bytes:
    """A request's bytes: its fields are given as whole lines, and nothing is added but Host."""
    lines = [b"%b %b %b" % (method, target, version), b"Host: " + host, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def sized(method: bytes, target: bytes, body: bytes, *fields: bytes) -> bytes:
    """A request with a body of known length."""
    return request(method, target, *fields, b"Content-Length: %d" % len(body), body=body)


def chunked(*pieces: bytes) -> bytes:
    """A body of these chunks."""
    return b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def streamed(method: bytes, target: bytes, *pieces: bytes) -> bytes:
    """A request with a chunked body."""
    return request(method, target, b"Transfer-Encoding: chunked", body=chunked(*pieces))


def response(status: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    """A response's bytes, nothing added."""
    return b"\r\n".join([b"HTTP/1.1 " + status, *fields]) + b"\r\n\r\n" + body


def answers(name: str, *steps: bytes | float | Do, method: bytes = b"GET", fields: tuple[bytes, ...] = ()) -> Exchange:
    """An exchange about what the upstream answers to a plain request."""
    target = b"/" + name.replace(" ", "-").encode()
    return Exchange(name=name, requests=(request(method, target, *fields),), answer=reply(*steps))


def asks(name: str, *requests: bytes, pipelined: bool = False, piece: int = 65_536) -> Exchange:
    """An exchange about what the client sends; the answer is the usual one."""
    return Exchange(name=name, requests=requests, pipelined=pipelined, piece=piece)


METHODS = tuple(
    asks(f"method {method.decode()}", request(method, b"/method"))
    for method in (
        *(b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"),
        *(b"PROPFIND", b"MKCOL", b"REPORT", b"LOCK", b"SEARCH", b"QUERY", b"M-SEARCH", b"BREW"),
    )
)
BODIED_METHODS = tuple(
    asks(f"method {method.decode()} with a body", sized(method, b"/method", b"<body/>", b"Content-Type: text/xml"))
    for method in (b"GET", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND", b"REPORT", b"LOCK", b"QUERY", b"BREW")
)
TARGETS = tuple(
    asks(f"target {name}", request(b"GET", target))
    for name, target in {
        "with an escaped slash": b"/a%2Fb%2fc",
        "with double slashes": b"//a//b//",
        "with dot segments": b"/a/../b/./c/..",
        "with escaped dots": b"/%2e%2e/%2E/x",
        "with a plus": b"/a+b?c+d",
        "with parameters": b"/a;p=1;q/b;",
        "with an empty query": b"/a?",
        "with two question marks": b"/a??x=?&y=/../",
        "with an escaped NUL": b"/?x=%00",
        "with a broken escape": b"/%zz%",
        "with UTF-8": "/café?q=日本".encode(),
        "with bytes that are not UTF-8": b"/\xff\xfe\x80?\xe9",
        "with characters that URLs should not have": b'/a|b\\c^d`{e}"<>[]',
        "with a fragment": b"/a#b",
        "of 8 KiB": b"/" + b"0123456789abcdef" * 512,
        "that looks like another host": b"/@example.com:80/",
    }.items()
)
REQUESTS = (
    asks("OPTIONS *", request(b"OPTIONS", b"*")),
    asks(
        "request fields keep order, case and repetition",
        request(b"GET", b"/", b"X-B: 1", b"x-a: 2", b"X-A: 3", b"X-b: 4", b"COOKIE: a=1", b"Cookie: b=2", b"x-B: 5"),
    ),
    asks("request fields that are not UTF-8", request(b"GET", b"/", b"X-Name: caf\xe9 \xff", "X-U: ü".encode())),
    asks("request fields without a value", request(b"GET", b"/", b"X-Empty:", b"X-Blank:   ", b"X-More: a  b")),
    asks("a hundred request fields", request(b"GET", b"/", *(b"X-%d: %d" % (n, n) for n in range(100)))),
    asks("20 KiB of request fields", request(b"GET", b"/", b"Cookie: " + b"c" * 10_240, b"X-Long: " + b"l" * 10_240)),
    asks(
        "hop-by-hop request fields",
        request(b"GET", b"/", b"Connection: X-Private, keep-alive", b"X-Private: 1", b"Keep-Alive: 5", b"TE: trailers"),
    ),
    asks(
        "request fields that clients of model APIs send",
        sized(
            b"POST",
            b"/v1/chat/completions",
            b'{"stream":true}',
            b"Authorization: Bearer sk-1",
            b"Accept: application/json",
            b"Accept-Encoding: gzip, deflate",
            b"Origin: http://localhost:3000",
            b"User-Agent: OpenAI/Python 1.0",
        ),
    ),
    asks("a body of one byte", sized(b"POST", b"/", b"x")),
    asks("a body of length 0", request(b"POST", b"/", b"Content-Length: 0")),
    asks("no body and no length", request(b"POST", b"/")),
    asks("a chunked body", streamed(b"POST", b"/", b"one", b"two", b"three")),
    asks("an empty chunked body", streamed(b"POST", b"/")),
    asks(
        "a chunked body with extensions",
        request(b"POST", b"/", b"Transfer-Encoding: chunked", body=b"3;a=b\r\nabc\r\n0;c\r\n\r\n"),
    ),
    asks("a chunked body of many chunks of a byte", streamed(b"POST", b"/", *(b"%d" % (n % 10) for n in range(500)))),
    asks("20 MB up, sized", sized(b"PUT", b"/up", MEGABYTES_20)),
    asks(
        "20 MB up, chunked",
        streamed(b"PUT", b"/up", *(MEGABYTES_20[at : at + 99_991] for at in range(0, 20_000_000, 99_991))),
    ),
    asks("a request that comes byte by byte", sized(b"POST", b"/slowly", b"abc"), piece=1),
    asks("a body that holds a request", sized(b"POST", b"/", b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")),
    asks("an empty line before the request", b"\r\n" + request(b"GET", b"/")),
    asks("keep-alive", *(sized(b"POST", b"/%d" % n, b"%d" % n) for n in range(5))),
    asks("keep-alive after HEAD", request(b"HEAD", b"/"), request(b"GET", b"/"), request(b"HEAD", b"/x")),
    asks("pipelined", *(request(b"GET", b"/%d" % n) for n in range(8)), pipelined=True),
    asks(
        "pipelined with bodies",
        *(
            sized(b"POST", b"/1", b"one"),
            streamed(b"POST", b"/2", b"t", b"wo"),
            request(b"HEAD", b"/3"),
            request(b"GET", b"/4"),
        ),
        pipelined=True,
    ),
    asks("a client that closes", request(b"GET", b"/", b"Connection: close")),
    asks("a client of HTTP/1.0", request(b"GET", b"/", version=b"HTTP/1.0")),
    asks("a client of HTTP/1.0 without Host", b"GET / HTTP/1.0\r\n\r\n"),
    asks(
        "a client of HTTP/1.0 with a body",
        request(b"POST", b"/", b"Content-Length: 3", body=b"abc", version=b"HTTP/1.0"),
    ),
)
