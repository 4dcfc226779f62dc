"""A WebSocket to the signal server, opened as soon as the network lets it.

A connect that began while the network was away keeps TCP's own pace: it asks again after 1, 3, 7 s. So another one
begins beside it every so often, until one has got through; the first that is open is taken.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import aiohttp

ANEW: Final = 0.5
"""Seconds after which another connect begins, where none has got through."""
_HOW: Final = "connecting to the signal server"


class WebSocket:
    """One that is open, and the HTTP session, which is its own and to be closed with it."""

    def __init__(self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self._http = http

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
        http = aiohttp.ClientSession(trust_env=True, trace_configs=[trace])
        try:
            return WebSocket(http, await http.ws_connect(_for_proxies(url), **options))
        except BaseException:
            await http.close()
            raise

    async def _get_through(self, *_: object) -> None:
        self.through = True


async def open_websocket(url: str, *, timeout: float, **options: Any) -> WebSocket:
    """Open one within ``timeout`` seconds; ``options`` are those of `aiohttp.ClientSession.ws_connect`.

    The proxy that the environment names is used, and the system's certificates for ``wss``. Raises
    `aiohttp.ClientError`, `OSError` (`TimeoutError` is one) or `ValueError`.
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
