"""A web application that does what browsers make difficult: ``python -m tests.support.web_site`` runs it."""

from __future__ import annotations

import asyncio
import hashlib
import json

from aiohttp import web
from aiohttp.typedefs import Handler

from .ports import free_port

PIECE = bytes(range(256)) * 256
"""What downloads consist of, 64 KiB."""
SCRIPT_POLICY = "script-src 'nonce-abc'; report-uri /reported; frame-ancestors 'none'"
routes = web.RouteTableDef()


def html(body: str, **fields: str) -> web.Response:
    head = "<meta charset=utf-8><title>Site</title>"
    page = f"<!doctype html>\n<html lang=en><head>{head}</head><body>{body}</body></html>"
    return web.Response(body=page.encode(), headers={"Content-Type": "text/html"} | fields)


@routes.get("/")
async def index(request: web.Request) -> web.Response:
    response = html("<h1>Grüße</h1><script>window.early = [typeof WebSocket, document.cookie];</script>")
    response.set_cookie("seen", "1")
    response.set_cookie("secret", "s3cret", httponly=True)
    response.headers["X-Frame-Options"] = "DENY"
    return response


@routes.get("/strict")
async def strict(request: web.Request) -> web.Response:
    hiding = "<meta name=referrer content=no-referrer>"
    body = f"{hiding}<script nonce=abc>window.ran = Boolean(window.llmtunnelShim);</script>"
    return html(body, **{"Content-Security-Policy": SCRIPT_POLICY, "X-Frame-Options": "DENY"})


@routes.route("*", "/echo")
async def echo(request: web.Request) -> web.Response:
    """What the request was."""
    digest, size = hashlib.sha256(), 0
    async for piece in request.content.iter_chunked(1 << 16):
        digest.update(piece)
        size += len(piece)
    fields = [[name, value] for name, value in request.headers.items()]
    said = {"method": request.method, "fields": fields, "size": size, "sha256": digest.hexdigest()}
    return web.json_response(said | {"query": request.query_string})


@routes.get("/moved")
async def moved(request: web.Request) -> web.Response:
    where = request.query.get("to", "/landed")
    response = web.Response(status=int(request.query.get("status", "302")), headers={"Location": where})
    response.set_cookie("moved", "yes")
    return response


@routes.get("/absolute")
async def absolute(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": f"http://{request.host}/landed"})


@routes.get("/landed")
async def landed(request: web.Request) -> web.Response:
    return html(f"landed: {request.headers.get('Cookie', '')}")


@routes.post("/form")
async def form(request: web.Request) -> web.Response:
    fields = await request.post()
    raise web.HTTPSeeOther(f"/landed?{fields['name']}")


@routes.get("/file")
async def file(request: web.Request) -> web.StreamResponse:
    """A file of ``size`` bytes and a ``type``, or the range of it that is asked for."""
    size = int(request.query.get("size", "1000"))
    start, stop = 0, size
    if request.http_range.start is not None:
        start, stop = request.http_range.start, min(request.http_range.stop or size, size)
    response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
    if "Range" in request.headers:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    if name := request.query.get("name"):
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.content_type = request.query.get("type", "application/octet-stream")
    response.content_length = stop - start
    await response.prepare(request)
    while start < stop:
        at = start % len(PIECE)
        piece = PIECE[at : at + stop - start]
        await response.write(piece)
        start += len(piece)
    return response


@routes.get("/broken")
async def broken(request: web.Request) -> web.StreamResponse:
    """A file of which the end is missing."""
    response = web.StreamResponse(headers={"Content-Length": "2000000", "Content-Type": "application/octet-stream"})
    await response.prepare(request)
    await response.write(PIECE * 10)
    assert request.transport is not None
    request.transport.close()
    return response


@routes.get("/packed")
async def packed(request: web.Request) -> web.Response:
    import gzip

    return web.Response(body=gzip.compress(b"unpacked"), headers={"Content-Encoding": "gzip"})


@routes.get("/ticks")
async def ticks(request: web.Request) -> web.StreamResponse:
    """An event stream, with an event every ``pause`` seconds, until the client leaves."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    state["streams"] += 1
    try:
        number = 0
        while True:
            number += 1
            await response.write(b"data: %d\n\n" % number)
            await asyncio.sleep(float(request.query.get("pause", "0.1")))
    except ConnectionError:
        return response
    finally:
        state["streams"] -= 1


state = {"streams": 0}
seen: list[str] = []
"""Method and target of each request."""


@web.middleware
async def remember(request: web.Request, handler: Handler) -> web.StreamResponse:
    seen.append(f"{request.method} {request.path_qs}")
    return await handler(request)


@routes.get("/seen")
async def all_seen(request: web.Request) -> web.Response:
    return web.json_response(seen)


@routes.get("/streams")
async def streams(request: web.Request) -> web.Response:
    return web.json_response(state["streams"])


@routes.get("/worker.js")
async def worker(request: web.Request) -> web.Response:
    code = """sloppy = fetch("/echo?worker").then(each => each.json());
        onmessage = async ({data}) => postMessage([data, await sloppy]);"""
    return web.Response(text=code, content_type="text/javascript")


@routes.get("/latin")
async def latin(request: web.Request) -> web.Response:
    page = "<!doctype html><html><head><meta charset=iso-8859-1><title>t</title></head><body>Grüße</body></html>"
    return web.Response(body=page.encode("latin-1"), headers={"Content-Type": "text/html"})


@routes.get("/empty")
async def empty(request: web.Request) -> web.Response:
    return web.Response(status=204)


@routes.get("/cookies")
async def cookies(request: web.Request) -> web.Response:
    return web.json_response(request.headers.get("Cookie", ""))


@routes.get("/login")
async def login(request: web.Request) -> web.Response:
    response = web.json_response("ok")
    for value in json.loads(request.query.get("set", "[]")):
        response.headers.add("Set-Cookie", value)
    return response


def main() -> None:
    app = web.Application(client_max_size=1 << 30, middlewares=[remember])
    app.add_routes(routes)
    port = free_port()
    web.run_app(app, host="127.0.0.1", port=port, print=lambda *_: print(f"app at http://127.0.0.1:{port}", flush=True))


if __name__ == "__main__":
    main()
