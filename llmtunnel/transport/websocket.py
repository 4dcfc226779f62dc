"""A WebSocket to the signal server, opened as soon as the network lets it.

A connect that began while the network was away keeps TCP's own pace: it asks again after 1, 3, 7 s. So another one
begins beside it every so often, until one has got through; the first that is open is taken.

A redirect is never followed: a signal server, or anybody on the way to it over ``ws://``, could otherwise have this
machine send requests to any address that it reaches, and pass the ticket of a relay on.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit

from ..listener import is_loopback

from ..descriptors import keep_from_children

if TYPE_CHECKING:
    import aiohttp

ANEW: Final = 0.5
"""Seconds after which another connect begins, where none has got through."""
_HOW: Final = "connecting to the signal server"
_SHOWN: Final = 200
"""Characters of a redirect's target that an error shows: the server chooses it."""


class Redirected(OSError):
    """The server answered with a redirect, which was not followed."""

    def __init__(self, to: str) -> None:
        super().__init__(f"it redirects to {to}, and llmtunnel does not follow redirects")
        self.to = to
        """The address that it named, as ``ws://`` or ``wss://`` where it was HTTP's; without a query or a password."""


class WebSocket:
    """One that is open, and the HTTP session, which is its own and to be closed with it."""

    def __init__(self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self._http = http
        keep_from_children(socket)

    async def aclose(self, patience: float) -> None:
        """Close in order, or cut it off after ``patience`` seconds; idempotent."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self.socket.close()
        finally:
            await self._http.close()


class _Attempt:
    """A connect, under way."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.through = False
        """TCP has got through, and TLS where there is one: the server's answer is waited for."""
        self.task = asyncio.create_task(self._open(url, options), name=_HOW)

    async def _open(self, url: str, options: dict[str, Any]) -> WebSocket:
        import aiohttp

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(self._get_through)
        trace.on_request_redirect.append(_refuse_redirect)  # it is told before the redirect is followed
        http = aiohttp.ClientSession(trust_env=not _is_here(url), trace_configs=[trace])
        try:
            return WebSocket(http, await http.ws_connect(_for_proxies(url), **options))
        except BaseException:
            await http.close()
            raise

    async def _get_through(self, *_: object) -> None:
        self.through = True


async def open_websocket(url: str, *, timeout: float, **options: Any) -> WebSocket:
    """Open one within ``timeout`` seconds; ``options`` are those of `aiohttp.ClientSession.ws_connect`.

    The proxy that the environment names is used, but not for a server on this machine, and the system's certificates
    for ``wss``. Raises `Redirected`, `aiohttp.ClientError`, `OSError` (`TimeoutError` is one) or `ValueError`.
    """
    attempts: list[_Attempt] = []
    try:
        async with asyncio.timeout(timeout):
            won = await _race(url, options, attempts)
        await _drop(attempts, won)
        return won
    except BaseException:
        await _drop(attempts, None)  # the one that has won too, where it is cancelled since
        raise


async def _drop(attempts: list[_Attempt], won: WebSocket | None) -> None:
    """Give all others up."""
    for each in attempts:
        each.task.cancel()
    for result in await asyncio.gather(*(each.task for each in attempts), return_exceptions=True):
        if isinstance(result, WebSocket) and result is not won:
            await result.aclose(0.0)


async def _race(url: str, options: dict[str, Any], attempts: list[_Attempt]) -> WebSocket:
    """The first attempt keeps on; of those that begin anew, only the last does."""
    while True:
        if not any(each.through for each in attempts):
            for last in attempts[1:]:
                last.task.cancel()
            attempts.append(_Attempt(url, options))
        running = [each.task for each in attempts if not each.task.cancelling()]
        done, _ = await asyncio.wait(running, timeout=ANEW, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            return task.result()


def _for_proxies(url: str) -> str:
    """As aiohttp gets it: of ``wss`` it would not know that the environment's https proxy is for it."""
    return "https" + url.removeprefix("wss") if url.startswith("wss://") else url


def _is_here(url: str) -> bool:
    """Whether the server is on this machine, which no proxy elsewhere can reach."""
    try:
        return is_loopback((urlsplit(url).hostname or "").lower())
    except ValueError:  # aiohttp says the same of it, and more
        return False


async def _refuse_redirect(
    _session: aiohttp.ClientSession, _context: object, params: aiohttp.TraceRequestRedirectParams
) -> None:
    raise Redirected(_target(str(params.url), params.response.headers.get("Location", "")))


def _target(url: str, location: str) -> str:
    """Where a redirect leads, for people; the server may have written anything there."""
    try:
        parts = urlsplit(urljoin(url, location))
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host:
        return "an address that makes no sense"
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    text = f"{scheme}://{netloc}{parts.path}"[:_SHOWN]
    return "".join(each if each.isascii() and each.isprintable() else "?" for each in text)
