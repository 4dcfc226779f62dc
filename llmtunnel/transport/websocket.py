"""A WebSocket to the signal server, opened as soon as the network permits.

TCP retries after 1, 3 and 7 s if a connect began while the network was away. So another attempt begins every so often,
until one of them connects. The first WebSocket that opens is used.

A redirect is never followed. Otherwise a signal server could make this machine send requests, and a relay's ticket, to
any address that it reaches. Over ``ws://``, so could anybody on the way to the server.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from ..descriptors import keep_from_children
from ..listener import is_loopback
from .tasks import finish, stop

if TYPE_CHECKING:
    import aiohttp

ANEW: Final = 0.5
"""Seconds after which another attempt begins, if none has connected."""
_HOW: Final = "connecting to the signal server"
_SHOWN: Final = 200
"""Characters of a redirect's target that an error shows. The server chooses the target."""


class Redirected(OSError):
    """The server answered with a redirect, which was not followed."""

    def __init__(self, to: str) -> None:
        super().__init__(f"it redirects to {to}, and llmtunnel does not follow redirects")
        self.to = to
        """The target, with ``ws://`` or ``wss://`` in place of HTTP's schemes, and without query and password."""


class WebSocket:
    """An open WebSocket and the HTTP session, which belongs to it and closes with it."""

    def __init__(self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self._http = http
        keep_from_children(socket)

    async def aclose(self, patience: float) -> None:
        """Close in order, or cut the connection after ``patience`` seconds. Idempotent."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self.socket.close()
        finally:
            await finish(self._http.close)


class _Attempt:
    """An attempt to connect."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self.through = False
        """Whether TCP, and TLS if there is one, has connected, so that only the server's answer is missing."""
        self.task = asyncio.create_task(self._open(url, options), name=_HOW)

    async def _open(self, url: str, options: dict[str, Any]) -> WebSocket:
        import aiohttp

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(self._get_through)
        trace.on_request_redirect.append(_refuse_redirect)  # called before the redirect is followed
        # Not trust_env: that would send the entry in ~/.netrc for the host, or for any host, to the signal server.
        http = aiohttp.ClientSession(trace_configs=[trace])
        try:
            return WebSocket(http, await http.ws_connect(_for_proxies(url), **_proxy_option(url), **options))
        except BaseException:
            await finish(http.close)
            raise

    async def _get_through(self, *_: object) -> None:
        self.through = True


async def open_websocket(url: str, *, timeout: float, **options: Any) -> WebSocket:
    """Open a WebSocket within ``timeout`` seconds. ``options``: those of `aiohttp.ClientSession.ws_connect`.

    This uses the proxy that the environment names, except for a server on this machine, and the system's certificates
    for ``wss``. Raises `Redirected`, `aiohttp.ClientError`, `OSError` (which includes `TimeoutError`) or `ValueError`.
    `proxy_failure` explains a failure of the proxy.
    """
    attempts: list[_Attempt] = []
    try:
        async with asyncio.timeout(timeout):
            won = await _race(url, options, attempts)
        await _drop(attempts, won)
        await asyncio.sleep(0)  # raises a cancellation that arrived meanwhile, while the socket is still ours
        return won
    except BaseException:
        await _drop(attempts, None)  # the winner too, if it was cancelled since
        raise


async def _drop(attempts: list[_Attempt], won: WebSocket | None) -> None:
    """Abandon all other attempts."""
    await stop(*(each.task for each in attempts))
    opened = [each.task.result() for each in attempts if _has_opened(each.task)]
    await finish(*(partial(each.aclose, 0.0) for each in opened if each is not won))


def _has_opened(task: asyncio.Task[WebSocket]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _race(url: str, options: dict[str, Any], attempts: list[_Attempt]) -> WebSocket:
    """Run attempts until one succeeds. The first keeps running; of the later ones, only the last does."""
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
    """Return the URL for aiohttp, which would not apply the environment's https proxy to ``wss``."""
    return "https" + url.removeprefix("wss") if url.startswith("wss://") else url


def _is_here(url: str) -> bool:
    """Return whether the server is on this machine, where no proxy elsewhere can reach it."""
    try:
        return is_loopback((urlsplit(url).hostname or "").lower())
    except ValueError:  # aiohttp reports this too, with details
        return False


async def _refuse_redirect(
    _session: aiohttp.ClientSession, _context: object, params: aiohttp.TraceRequestRedirectParams
) -> None:
    raise Redirected(_target(str(params.url), params.response.headers.get("Location", "")))


def _target(url: str, location: str) -> str:
    """Return where a redirect leads, for people. The server may have written anything there."""
    try:
        parts = urlsplit(urljoin(url, location))
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host:
        return "an invalid address"
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    text = f"{scheme}://{netloc}{parts.path}"[:_SHOWN]
    return "".join(each if each.isascii() and each.isprintable() else "?" for each in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpProxy:
    """An HTTP proxy that the environment names for the signal server. Its text does not show the password."""

    url: SplitResult
    variable: str
    """The variable that names it, such as ``HTTPS_PROXY``."""

    def __str__(self) -> str:
        address = self.url.netloc.rpartition("@")[2]
        return f"{self.url.scheme}://{address}" if address else "an unreadable address"


def proxy_for(url: str) -> HttpProxy | None:
    """Return the proxy for a signal server: for ``wss`` that of HTTPS_PROXY, for ``ws`` only that of WS_PROXY."""
    target = _split(url)
    schemes = ("https", "wss") if target.scheme == "wss" else ("ws",)
    proxies = getproxies()
    scheme = next((each for each in schemes if proxies.get(each)), None)
    if scheme is None or _is_here(url) or proxy_bypass(target.hostname or ""):
        return None
    text = proxies[scheme]
    proxy = _split(text if "://" in text else f"http://{text}")
    # aiohttp ignores a proxy that expects TLS, and connects directly.
    return None if proxy.scheme == "https" else HttpProxy(url=proxy, variable=f"{scheme.upper()}_PROXY")


def proxy_failure(url: str, exc: Exception) -> tuple[str, str] | None:
    """Return how the proxy caused a failure, and what to do. Return None if there is no proxy or it is not to blame.

    Neither text contains the proxy's password.
    """
    import aiohttp

    proxy = proxy_for(url)
    if proxy is None:
        return None
    host = urlsplit(url).hostname
    check = f"Check {proxy.variable}. Add {host} to NO_PROXY to bypass the proxy."
    match exc:
        case UnsupportedProxy():
            return f"{proxy.variable} names {proxy}, which is not an HTTP proxy.", "Use http://host:port there."
        case aiohttp.ClientHttpProxyError(status=407) | aiohttp.WSServerHandshakeError(status=407):
            why = "rejected the user name or password" if proxy.url.username else "asks for a user name and password"
            hint = f"Set {proxy.variable} to http://USER:PASSWORD@{proxy.url.netloc.rpartition('@')[2]}."
            return f"The HTTP proxy {proxy} {why} (HTTP status 407).", hint
        case aiohttp.ClientHttpProxyError():
            hint = f"Ask its operator to allow {host}. {check}"
            return f"The HTTP proxy {proxy} refused to connect to {host} (HTTP status {exc.status}).", hint
        case aiohttp.ClientConnectorDNSError() if exc.host == proxy.url.hostname:
            return f"Cannot look up the HTTP proxy {proxy}.", check
        case aiohttp.ClientProxyConnectionError():
            why = "nothing listens there" if isinstance(exc.os_error, ConnectionRefusedError) else str(exc.os_error)
            return f"Cannot reach the HTTP proxy {proxy}: {why}.", check
        case TimeoutError():
            return f"No answer came in time through the HTTP proxy {proxy}.", check
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() if not isinstance(
            exc, aiohttp.ClientConnectorError
        ):
            return f"The HTTP proxy {proxy}, or the server behind it, closed the connection.", check
    return None


class UnsupportedProxy(ValueError):
    """The environment names something that is not an HTTP proxy, for example SOCKS or an invalid address."""


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # unbalanced brackets
        return urlsplit("")


def _proxy_option(url: str) -> dict[str, Any]:
    """Return the proxy as an option for aiohttp."""
    proxy = proxy_for(url)
    if proxy is None:
        return {}
    try:
        usable = proxy.url.scheme == "http" and proxy.url.hostname and proxy.url.port != 0
    except ValueError:  # a port that is not a number
        usable = False
    if not usable:
        raise UnsupportedProxy
    return {"proxy": proxy.url.geturl()}
