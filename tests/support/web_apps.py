"""Web applications that tell their own pages from foreign ones: ``python -m tests.support.web_apps NAME`` runs one.

Each is as its framework makes it, on a port of its own, and says where it is: ``app at http://127.0.0.1:PORT``
(Streamlit: ``URL: …``).
"""

from __future__ import annotations

import socket
import sys
import tempfile
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from .ports import free_port

STREAMLIT = """
import streamlit as st

name = st.text_input("Your name")
if name:
    st.write(f"Hello, {name}!")
if file := st.file_uploader("A file"):
    st.write(f"It has {len(file.getvalue())} bytes.")
"""


def tell(port: int) -> None:
    """Say where the application is."""
    print(f"app at http://127.0.0.1:{port}", flush=True)


def uvicorn(app: Any) -> None:
    """Run an ASGI application. X-Forwarded-Proto is believed from loopback, which is uvicorn's default."""
    from uvicorn import Config, Server

    with socket.create_server(("127.0.0.1", 0)) as listening:
        tell(listening.getsockname()[1])
        Server(Config(app, log_level="warning", lifespan="off")).run(sockets=[listening])


def comfyui() -> None:
    """An application with ComfyUI's rule: on loopback, the host and port of Origin must be those of Host."""
    from aiohttp import web

    def parts(text: str) -> tuple[str, int | None]:
        split = urllib.parse.urlsplit("//" + text.lower())
        return split.hostname or "", split.port

    @web.middleware
    async def origin_only(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        origin = urllib.parse.urlsplit(request.headers.get("Origin", "")).netloc
        if origin:
            asked, said = parts(request.headers["Host"]), parts(origin)
            if None in (asked[1], said[1]):  # then names alone count
                asked, said = (asked[0], None), (said[0], None)
            if asked[0] in ("localhost", "127.0.0.1", "::1") and asked != said:
                return web.Response(status=403, text=f"{origin} is not {request.headers['Host']}")
        return await handler(request)

    async def page(request: web.Request) -> web.Response:
        return web.Response(content_type="text/html", text=COMFYUI)

    async def prompt(request: web.Request) -> web.Response:
        return web.json_response({"prompt_id": (await request.json())["prompt"]})

    async def events(request: web.Request) -> web.WebSocketResponse:
        events = web.WebSocketResponse()
        await events.prepare(request)
        await events.send_str("status")
        await events.close()
        return events

    app = web.Application(middlewares=[origin_only])
    app.add_routes([web.get("/", page), web.post("/prompt", prompt), web.get("/ws", events)])
    port = free_port()
    web.run_app(app, host="127.0.0.1", port=port, print=lambda *_: tell(port))


COMFYUI = """<!doctype html><pre id=told></pre><script>
const tell = text => { document.getElementById("told").textContent += text + ";"; };
new WebSocket("ws://" + location.host + "/ws").onmessage = event => tell(event.data);
fetch("/prompt", {method: "POST", body: JSON.stringify({prompt: "queued"})})
  .then(answer => answer.json()).then(answer => tell(answer.prompt_id)).catch(tell);
</script>"""


def tornado() -> None:
    """A WebSocket that checks Origin as Tornado does by default."""
    import asyncio

    from tornado.web import Application
    from tornado.websocket import WebSocketHandler

    class Echo(WebSocketHandler):
        async def on_message(self, message: str | bytes) -> None:
            await self.write_message(message)

    async def main() -> None:
        port = free_port()
        Application([("/ws", Echo)]).listen(port, "127.0.0.1")
        tell(port)
        await asyncio.Event().wait()

    asyncio.run(main())


def django() -> None:
    """A form with CSRF protection, whose answer is a redirect to an absolute URL; by uvicorn."""
    from django import setup
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
    from django.middleware.csrf import get_token
    from django.urls import path

    def form(request: HttpRequest) -> HttpResponse:
        if request.method == "POST":
            return HttpResponseRedirect(request.build_absolute_uri("/done?" + str(request.POST["name"])))
        fields = f'<input name=name><input type=hidden name=csrfmiddlewaretoken value="{get_token(request)}">'
        return HttpResponse(f"<form method=post>{fields}<button>Send</button></form>")

    def done(request: HttpRequest) -> HttpResponse:
        return HttpResponse(f"Thank you, {request.META['QUERY_STRING']}!")

    settings.configure(
        SECRET_KEY="of a test",
        ALLOWED_HOSTS=["localhost", "127.0.0.1"],
        ROOT_URLCONF=type("Urls", (), {"urlpatterns": [path("", form), path("done", done)]}),
        MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
    )
    setup()

    uvicorn(get_asgi_application())


def fastapi() -> None:
    """One that redirects ``/items`` to ``/items/``, by uvicorn."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/items/")
    def items() -> list[str]:
        return []

    uvicorn(app)


def gradio() -> None:
    """A greeting, and a picture, which the page loads by a URL that the application makes."""
    import gradio
    from PIL import Image

    def greet(name: str) -> tuple[str, Any]:
        return f"Hello, {name}!", Image.new("RGB", (40, 30), "red")

    demo = gradio.Interface(greet, gradio.Textbox(label="name"), ["text", gradio.Image(label="picture")])
    port = free_port()
    demo.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
    tell(port)
    demo.block_thread()


def gradio_chat() -> None:
    """A chat whose answers stream, a file that comes, and one that goes."""
    import hashlib
    import time

    import gradio

    def answer(message: str, history: object) -> Iterator[str]:
        text = ""
        for word in ("Every", "word", "comes", "alone:", message):
            text += f"{word} "
            yield text
            time.sleep(0.3)

    def sized(file: str) -> str:
        data = Path(file).read_bytes()
        return f"{len(data)} {hashlib.sha256(data).hexdigest()}"

    def made() -> str:
        file = Path(tempfile.mkdtemp(), "made.bin")
        file.write_bytes(bytes(range(256)) * 40_000)
        return str(file)

    with gradio.Blocks() as demo:
        gradio.ChatInterface(answer)
        given, told = gradio.File(label="given"), gradio.Textbox(label="told")
        given.upload(sized, given, told)
        gradio.Button("Make").click(made, None, gradio.File(label="made"))
    port = free_port()
    demo.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
    tell(port)
    demo.block_thread()


def streamlit() -> None:
    """A page that greets whoever tells a name, and takes a file."""
    from streamlit.web import cli

    flags = ("--server.headless=true", "--server.address=127.0.0.1", "--browser.gatherUsageStats=false")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "app.py")
        script.write_text(STREAMLIT, "utf-8")
        sys.argv = ["streamlit", "run", str(script), f"--server.port={free_port()}", *flags]
        cli.main()


APPS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (comfyui, tornado, django, fastapi, gradio, gradio_chat, streamlit)
}

if __name__ == "__main__":
    APPS[sys.argv[1]]()
