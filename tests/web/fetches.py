"""What a script of an app asks for, by ``fetch`` and other ways: `Fetch` is one such exchange.

`FETCHES` get whole answers, `BROKEN` truncated ones, and `SILENT` none. ``exchanges.html`` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..e2e.test_differential import BODIED_METHODS, METHODS, TARGETS
from ..support.answered import RESPONSES, TRUNCATED, UNANSWERED
from ..support.exchanges import MEGABYTES_20, Exchange, chunked, response
from ..support.raw_server import Answer, reply

FOREIGN = b"http://127.0.0.1:9/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Requests, one after the other."""

    name: str
    asks: tuple[dict[str, Any], ...]
    """Arguments of ``fetch``, with ``target`` for the URL, and ``body`` and ``by`` as in ``exchanges.html``."""
    answers: dict[bytes, Answer] = field(default_factory=dict)
    """What the upstream answers, by target; "ok" otherwise."""

    def __str__(self) -> str:
        return self.name


def fetched(name: str, answer: Answer = (), *, target: str | None = None, **init: object) -> Fetch:
    """One request. Its target is made of its name where none is given."""
    target = target or "/" + name.replace(" ", "-")
    answers = {target.encode(): answer} if answer else {}
    return Fetch(name=name, asks=({"target": target, **init},), answers=answers)


def as_fetch(exchange: Exchange) -> Fetch:
    """The same without what concerns the connection."""
    head, _, body = exchange.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    fields = dict(line.split(": ", 1) for line in lines if not line.startswith(("Host", "Content-Length")))
    ask = {"target": target, "method": method, "headers": fields}
    answers = {target.encode(): exchange.answer} if exchange.answer else {}
    return Fetch(
        name=exchange.name, asks=(ask | ({"body": {"latin1": body.decode()}} if body else {}),), answers=answers
    )


def moved(status: bytes, to: bytes, *fields: bytes) -> Answer:
    """A redirect."""
    return reply(response(status + b" Moved", b"Location: " + to, b"Content-Length: 0", *fields))


def redirected(status: str, method: str) -> Fetch:
    """A request that is sent elsewhere, with a body where it may have one."""
    name = f"{method} redirected by {status}"
    body = {} if method == "GET" else {"body": {"text": "müsli"}}
    return fetched(name, moved(status.encode(), b"/landed?a#b"), method=method, **body)


REDIRECTS = (
    *(
        redirected(status, method)
        for status in ("301", "302", "303", "307", "308")
        for method in ("GET", "POST", "PUT")
    ),
    *(
        fetched(f"a redirect with the mode {mode}", moved(b"302", b"/landed"), redirect=mode)
        for mode in ("manual", "error")
    ),
    fetched("a redirect without a Location", reply(response(b"302 Found", b"Content-Length: 2", body=b"no"))),
    fetched("a redirect that goes round", moved(b"302", b"/a-redirect-that-goes-round")),
    fetched("a redirect to no URL", moved(b"302", b"http://:x/")),
    fetched("a redirect to another scheme", moved(b"302", b"data:text/plain,hi")),
    fetched("a redirect to a host that is not there", moved(b"302", FOREIGN)),
    fetched("a redirect to elsewhere in the mode same-origin", moved(b"302", FOREIGN), mode="same-origin"),
    Fetch(
        name="two redirects that set a cookie",
        asks=({"target": "/first"}, {"target": "/asked-again"}, {"target": "/second/below"}),
        answers={
            b"/first": moved(b"302", b"/second", b"Set-Cookie: hop=1; Path=/"),
            b"/second": moved(b"307", b"third", b"Set-Cookie: hop2=1; Path=/second"),
        },
    ),
)
COOKIES = Fetch(
    name="cookies of several paths",
    asks=(
        *({"target": target} for target in ("/set", "/a/b", "/a", "/ab", "/a/b/c", "/")),
        {"target": "/a/b", "credentials": "omit"},
        {"target": "/change"},
        *({"target": target} for target in ("/a/b/", "/a/")),
    ),
    answers={
        b"/set": reply(
            response(
                b"200 OK",
                *(
                    b"Set-Cookie: " + each
                    for each in (
                        *(b"root=1; Path=/", b"a=1; Path=/a", b"ab=1; Path=/a/b; HttpOnly", b"gone=1; Max-Age=0"),
                        *(b"strict=1; SameSite=Strict", b'quoted="a b"', b"empty=", b"odd=a=b=c"),
                        *(b"elsewhere=1; Domain=example.com", b"old=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT"),
                        *(
                            b"later=1; Expires=Fri, 01 Jan 2100 00:00:00 GMT",
                            b"spaced = x y ; Path=/",
                            b"utf=caf\xc3\xa9",
                        ),
                    )
                ),
                b"Content-Length: 0",
            )
        ),
        b"/change": reply(
            response(
                b"200 OK",
                *(b"Set-Cookie: root=2; Path=/", b"Set-Cookie: a=; Path=/a; Max-Age=0", b"Content-Length: 0"),
            )
        ),
    },
)
BODIES = (
    fetched("a body of a text", method="POST", body={"text": "Grüße"}),
    fetched("a body of no text", method="POST", body={"text": ""}),
    *(fetched(f"{method} without a body", method=method) for method in ("POST", "PUT", "PATCH", "DELETE", "QUERY")),
    fetched("a body of bytes", method="PUT", body={"latin1": "\x00\xff\r\n"}),
    fetched("a blob with a type", method="PUT", body={"latin1": "abc", "type": "image/png"}),
    fetched("a blob without a type", method="PUT", body={"latin1": "abc", "type": ""}),
    fetched("a form's parameters", method="POST", body={"params": [["a", "b c"], ["ü", "&="], ["a", ""]]}),
    fetched("a form with a file", method="POST", body={"form": [["a", "b\nc"], ["ü", "&="]]}),
    fetched("JSON", method="POST", headers={"Content-Type": "application/json"}, body={"text": '{"a": 1}'}),
    fetched("200 KB up", method="PUT", body={"size": 200_000}),
    fetched("5 MB up", method="PUT", body={"size": 5_000_000}),
    fetched("a request that outlives its page", method="POST", keepalive=True, body={"text": "bye"}),
)
REQUESTS = (
    fetched("request fields", headers={"X-A": "a  b", "X-Empty": "", "Authorization": "Bearer x", "accept": "a/b"}),
    fetched("request fields that are not ASCII", headers={"X-A": "caf\xe9 \xff"}),
    fetched("the language that a script wants", headers={"Accept-Language": "tlh"}),
    *(fetched(f"credentials {each}", credentials=each) for each in ("omit", "same-origin", "include")),
    *(fetched(f"cache {each}", cache=each) for each in ("no-store", "reload", "no-cache", "force-cache")),
    *(fetched(f"mode {each}", mode=each) for each in ("cors", "no-cors", "same-origin")),
    *(
        fetched(f"{method} with the referrer policy {each}", referrerPolicy=each, method=method)
        for each, method in (
            *(("no-referrer", "GET"), ("no-referrer", "POST"), ("origin", "GET"), ("unsafe-url", "GET")),
            *(("same-origin", "POST"), ("strict-origin", "PUT")),
        )
    ),
    fetched("no referrer", referrer=""),
    fetched("another referrer", referrer="/other?x#y"),
    fetched("an integrity that holds", integrity="sha256-Jok2eyBcFs4y7UIAlCuLix4mLfxw2byfvHfElpmk8d8="),
    fetched("an integrity that does not hold", integrity="sha256-AAAA"),
    fetched("a fragment", target="/x?y#z"),
    fetched("a target that is not ASCII", target="/café?q=日本#ü"),
    fetched("XMLHttpRequest", by="xhr"),
    fetched("XMLHttpRequest with a body", by="xhr", method="PUT", headers={"X-A": "1"}, body="Grüße"),
)
ANSWERS = (
    fetched("401 for a token", reply(response(b"401 No", b"WWW-Authenticate: Bearer", b"Content-Length: 0"))),
    fetched("2 MB down, sized", reply(response(b"200 OK", b"Content-Length: 2000000", body=MEGABYTES_20[:2_000_000]))),
    fetched(
        "2 MB down, chunked",
        reply(response(b"200 OK", b"Transfer-Encoding: chunked", body=chunked(*[MEGABYTES_20[:700_000]] * 3))),
    ),
    fetched(
        "XMLHttpRequest for what is not there",
        reply(response(b"404 Not here", b"X-A: 1", b"x-a: 2", b"Content-Length: 6", body="Grü".encode() + b"\xe9!")),
        by="xhr",
    ),
    fetched(
        "EventSource",
        reply(
            response(b"200 OK", b"Content-Type: text/event-stream", b"Transfer-Encoding: chunked"),
            b"".join(
                b"%X\r\n%b\r\n" % (len(each), each)
                for each in (b"retry: 5\n\nid: a1\ndata: one\n\n", b"event: named\ndata: t", b"wo\n\n: no event\n\n")
            ),
            b"0\r\n\r\n",
        ),
        by="events",
    ),
    fetched("EventSource without an answer", UNANSWERED[2].answer, by="events", errors=1),
    fetched("EventSource that ends", reply(response(b"204 No Content")), by="events", errors=1),
    fetched(
        "an event stream",
        reply(
            response(b"200 OK", b"Content-Type: text/event-stream", b"Transfer-Encoding: chunked"),
            chunked(b"data: a\n\n", b"data: b\n\n"),
        ),
    ),
    *(
        fetched(f"the status {each}", reply(response(b"%d Odd" % each, b"Content-Length: 2", body=b"no")))
        for each in (203, 226, 300, 402, 451, 511, 600, 999)
    ),
    fetched("205 with a body", reply(response(b"205 Reset", b"Content-Length: 2", body=b"no"))),
    fetched(
        "early hints and then an error",
        reply(response(b"103 Early Hints", b"Link: </a>"), response(b"500 No", b"Content-Length: 0")),
    ),
    fetched(
        "a policy of the app",
        reply(
            response(
                b"200 OK",
                b"Content-Security-Policy: default-src 'none'",
                b"Cross-Origin-Resource-Policy: same-origin",
                b"Content-Length: 2",
                body=b"ok",
            )
        ),
    ),
    fetched(
        "an attachment",
        reply(
            response(b"200 OK", b'Content-Disposition: attachment; filename="a.bin"', b"Content-Length: 2", body=b"ok")
        ),
    ),
    fetched(
        "HTML",
        reply(response(b"200 OK", b"Content-Type: text/html", b"Content-Length: 19", body=b"<html><head></head>")),
    ),
)
SAME_METHODS = [
    as_fetch(each)
    for each in (*METHODS, *BODIED_METHODS)
    if "TRACE" not in each.name and each.name != "method GET with a body"
]
SAME_TARGETS = [
    as_fetch(each) for each in TARGETS if each.name not in ("target with UTF-8", "target with bytes that are not UTF-8")
]
SAME_RESPONSES = [
    as_fetch(each)
    for each in RESPONSES
    if not each.name.startswith(("20 MB", "HTTP/1.0 client", "a redirect to elsewhere", "401"))
]
FETCHES = (*SAME_METHODS, *SAME_TARGETS, *REQUESTS, *BODIES, *SAME_RESPONSES, *ANSWERS, *REDIRECTS, COOKIES)
BROKEN = [as_fetch(each) for each in TRUNCATED]
SILENT = [as_fetch(each) for each in UNANSWERED]
