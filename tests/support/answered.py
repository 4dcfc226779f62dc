"""The exchanges whose answer is what matters."""

from __future__ import annotations

import gzip

from .exchanges import MEGABYTES_20, OWN_ORIGIN, Exchange, answers, chunked, request, response, sized, streamed
from .raw_server import OK, Do, reply

NO_BODY = response(b"200 OK", b"Content-Length: 0")
CONTENT = b"0123456789"
RESPONSES = (
    answers("a sized body", response(b"200 OK", b"Content-Type: text/plain", b"Content-Length: 10", body=CONTENT)),
    answers("an empty sized body", NO_BODY),
    answers(
        "a chunked response", response(b"200 OK", b"Transfer-Encoding: chunked", body=chunked(b"a", b"bc", b"def"))
    ),
    answers("an empty chunked response", response(b"200 OK", b"Transfer-Encoding: chunked", body=chunked())),
    answers(
        "chunks with extensions",
        response(b"200 OK", b"transfer-encoding: Chunked", body=b"3;x=1\r\nabc\r\n00;y\r\n\r\n"),
    ),
    answers(
        "chunks that come slowly and split",
        *(
            response(b"200 OK", b"Transfer-Encoding: chunked"),
            b"3\r\na",
            0.05,
            b"bc\r",
            0.05,
            b"\n2",
            0.05,
            b"\r\nde\r\n0\r\n",
            0.05,
            b"\r\n",
        ),
    ),
    answers("a body that ends with the connection", response(b"200 OK", b"X-A: 1", body=CONTENT), Do.CLOSE),
    answers(
        "an upstream that closes after each",
        response(b"200 OK", b"Connection: close", b"Content-Length: 10", body=CONTENT),
        Do.CLOSE,
    ),
    answers("an upstream of HTTP/1.0", b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + CONTENT, Do.CLOSE),
    answers(
        "an upstream of HTTP/1.0 with a length", b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\n" + CONTENT, Do.CLOSE
    ),
    answers("HEAD with a length", response(b"200 OK", b"Content-Length: 1234567", b"ETag: x"), method=b"HEAD"),
    answers("HEAD without a length", response(b"200 OK", b"X-A: 1"), method=b"HEAD"),
    answers("HEAD of a chunked answer", response(b"200 OK", b"Transfer-Encoding: chunked"), method=b"HEAD"),
    answers("204", response(b"204 No Content", b"X-A: 1")),
    answers("205", response(b"205 Reset Content", b"Content-Length: 0")),
    answers(
        "304 with a length",
        response(b"304 Not Modified", b'ETag: "x"', b"Content-Length: 4321"),
        fields=(b'If-None-Match: "x"',),
    ),
    answers("304 without a length", response(b"304 Not Modified", b'ETag: "x"')),
    answers("a relative redirect", response(b"302 Found", b"Location: ../next?x", b"Content-Length: 0")),
    answers(
        "a redirect to itself",
        response(b"301 Moved Permanently", b"Location: " + OWN_ORIGIN + b"/next", b"Content-Length: 0"),
    ),
    answers(
        "a redirect to its bare origin",
        response(b"308 Permanent Redirect", b"Location: " + OWN_ORIGIN, b"Content-Length: 0"),
    ),
    answers(
        "a redirect to elsewhere",
        response(b"307 Temporary Redirect", b"Location: http://example.com/a%2F", b"Content-Length: 0"),
    ),
    answers(
        "cookies",
        response(
            b"200 OK", b"Set-Cookie: a=1; Path=/", b"X: y", b"set-cookie: b=2", b"Set-Cookie: a=3", b"Content-Length: 0"
        ),
    ),
    answers(
        "response fields in order and case",
        response(b"200 OK", b"X-A: 1", b"x-a: 2", b"x-A: 3", b"CONTENT-LENGTH: 0", b"X-a: 4"),
    ),
    answers(
        "response fields that are not UTF-8",
        response(b"200 OK", b"X-Name: caf\xe9 \xff\x80", "X-U: ü日".encode(), b"Content-Length: 0"),
    ),
    answers("response fields without a value", response(b"200 OK", b"X-Empty:", b"Content-Length: 0")),
    answers(
        "a hundred response fields",
        response(b"200 OK", *(b"X-%d: %d" % (n, n) for n in range(99)), b"Content-Length: 0"),
    ),
    answers(
        "20 KiB of response fields",
        response(b"200 OK", b"X-A: " + b"a" * 10_240, b"X-B: " + b"b" * 10_240, b"Content-Length: 0"),
    ),
    answers(
        "Date and Server as they were",
        response(b"200 OK", b"Server: Old/1", b"Date: Thu, 01 Jan 1970 00:00:00 GMT", b"Content-Length: 0"),
    ),
    answers(
        "hop-by-hop response fields",
        response(b"200 OK", b"Connection: X-Hop", b"X-Hop: 1", b"Keep-Alive: timeout=5", b"Content-Length: 0"),
    ),
    answers("an odd reason", response(b"200 All is (very) well; 100%", b"Content-Length: 0")),
    answers("no reason", response(b"200 ", b"Content-Length: 0")),
    answers("a reason that is not ASCII", response(b"404 Introuv\xe9", b"Content-Length: 0")),
    *(
        answers(f"status {code}", response(b"%d Odd" % code, b"Content-Length: 2", body=b"no"))
        for code in (299, 400, 418, 429, 500, 503, 599)
    ),
    answers(
        "401",
        response(b"401 Unauthorized", b"WWW-Authenticate: Basic", b"WWW-Authenticate: Bearer", b"Content-Length: 0"),
    ),
    answers("early hints", response(b"103 Early Hints", b"Link: </a>"), 0.05, OK),
    answers(
        "a range",
        response(b"206 Partial Content", b"Content-Range: bytes 2-4/10", b"Content-Length: 3", body=b"234"),
        fields=(b"Range: bytes=2-4",),
    ),
    answers(
        "a range that is not there",
        response(b"416 Range Not Satisfiable", b"Content-Range: bytes */10", b"Content-Length: 0"),
        fields=(b"Range: bytes=99-",),
    ),
    answers(
        "a compressed body",
        response(
            b"200 OK", b"Content-Encoding: gzip", b"Transfer-Encoding: chunked", body=chunked(gzip.compress(CONTENT))
        ),
    ),
    answers(
        "a body that only claims to be compressed",
        response(b"200 OK", b"Content-Encoding: gzip", b"Content-Length: 10", body=CONTENT),
    ),
    answers("20 MB down, sized", response(b"200 OK", b"Content-Length: 20000000", body=MEGABYTES_20)),
    answers(
        "20 MB down, chunked",
        response(
            b"200 OK", b"Transfer-Encoding: chunked", body=chunked(MEGABYTES_20[:7_000_000], MEGABYTES_20[7_000_000:])
        ),
    ),
    answers("a slow first byte", 0.4, OK),
    answers(
        "a head in pieces",
        b"HTTP/1.1 20",
        0.05,
        b"0 OK\r\nContent-Le",
        0.05,
        b"ngth: 2\r\n",
        0.05,
        b"\r\n",
        0.05,
        b"ok",
    ),
    Exchange(
        name="HTTP/1.0 client, body without a length",
        requests=(request(b"GET", b"/old", version=b"HTTP/1.0"),),
        answer=reply(response(b"200 OK", body=CONTENT), Do.CLOSE),
    ),
)
BODY_LATER = request(b"POST", b"/expect", b"Content-Length: 4", b"Expect: 100-continue", body=b"body")
EXPECTATIONS = (
    Exchange(
        name="100-continue accepted",
        requests=(BODY_LATER,),
        waits=True,
        answer=(b"HTTP/1.1 100 Continue\r\n\r\n", Do.READ_BODY, OK),
    ),
    Exchange(
        name="100-continue refused",
        requests=(BODY_LATER,),
        waits=True,
        unread=True,
        answer=(response(b"417 Expectation Failed", b"Content-Length: 2", body=b"no"),),
    ),
    Exchange(
        name="100-continue answered at once",
        requests=(BODY_LATER,),
        waits=True,
        unread=True,
        answer=(response(b"401 Unauthorized", b"Content-Length: 0", b"Connection: close"),),
    ),
    Exchange(
        name="refused before the body ends",
        requests=(sized(b"POST", b"/early", MEGABYTES_20),),
        unread=True,
        answer=(response(b"413 Content Too Large", b"Content-Length: 9", b"Connection: close", body=b"too large"),),
    ),
    Exchange(
        name="answered before the chunked body ends",
        requests=(streamed(b"POST", b"/early", MEGABYTES_20[:10_000_000], MEGABYTES_20[10_000_000:]),),
        unread=True,
        answer=(response(b"200 OK", b"Transfer-Encoding: chunked", body=chunked(b"enough")),),
    ),
)
PARTIAL = b"x" * 1000
TRUNCATED = (
    *(
        answers(f"{how} in the middle of {what}", head, PARTIAL, 0.1, end)
        for how, end in (("a reset", Do.RESET), ("an end", Do.CLOSE))
        for what, head in (
            ("a sized body", response(b"200 OK", b"Content-Length: 5000")),
            ("a chunk", response(b"200 OK", b"Transfer-Encoding: chunked") + b"1388\r\n"),
        )
    ),
    answers(
        "an end between chunks",
        response(b"200 OK", b"Transfer-Encoding: chunked"),
        b"3e8\r\n" + PARTIAL + b"\r\n",
        0.1,
        Do.CLOSE,
    ),
    answers(
        "a reset between chunks",
        response(b"200 OK", b"Transfer-Encoding: chunked"),
        b"3e8\r\n" + PARTIAL + b"\r\n",
        0.1,
        Do.RESET,
    ),
    answers("a reset of a body without a length", response(b"200 OK"), PARTIAL, 0.1, Do.RESET),
    answers(
        "a chunk of no size",
        response(b"200 OK", b"Transfer-Encoding: chunked"),
        b"3e8\r\n" + PARTIAL + b"\r\n",
        0.1,
        b"zz\r\n",
        Do.CLOSE,
    ),
    answers("an end after the head", response(b"200 OK", b"Content-Length: 5"), 0.1, Do.CLOSE),
)
UNANSWERED = (
    answers("an end without an answer", Do.CLOSE),
    answers("a reset without an answer", Do.RESET),
    answers("an end in the head", b"HTTP/1.1 200 OK\r\nContent-Le", Do.CLOSE),
    answers("what is not HTTP", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", Do.CLOSE),
    answers("a status that is no number", b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n", Do.CLOSE),
)
