"""The gateway: the proxy's HTTP listener. It answers each client's requests in order, with one `Exchange` each."""

from __future__ import annotations

import asyncio
import logging

from ..config import Limits, Timeouts
from ..listener import ListenerPolicy
from ..protocol.heads import get_all
from .client_connection import ClientConnection
from .clients import Clients
from .exchange import ClientBody, Exchange, SessionSource
from .guard import Guard
from .http1 import BadMessage, RequestEvent, RequestHeadReceived, RequestReader
from .ledger import Ledger
from .listen import Listen, addresses_of, open_servers, parse_listen, take_sockets, url_of
from .probe import PROBE_FIELD
from .responses import BUSY, PROBED, Failure, failure

logger = logging.getLogger(__name__)


class Gateway:
    """The listener. Call `start`, then `aclose`. Requests wait for one of the ``sessions``."""

    def __init__(
        self,
        sessions: SessionSource,
        *,
        listen: Listen | str,
        policy: ListenerPolicy | None = None,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        ledger: Ledger | None = None,
        keepalive: float | None = None,
        bench: bool = False,
    ) -> None:
        """``keepalive``, ``bench``: see `Exchange`.

        Raises `SettingError` for an invalid address, or one that the policy forbids.
        """
        self._sessions = sessions
        self._listen = parse_listen(listen) if isinstance(listen, str) else listen
        self._guard = Guard(policy or ListenerPolicy(), self._listen)
        self._timeouts = timeouts or Timeouts()
        self._limits = limits or Limits()
        self._ledger = ledger or Ledger()
        self._keepalive = keepalive
        self._bench = bench
        self.url = ""
        """``http://127.0.0.1:8000``; empty before `start`."""
        self.addresses: tuple[str, ...] = ()
        """Every address where it listens: ``127.0.0.1:8000``, ``[::1]:8000``."""
        self._clients = Clients(self._accept, busy=BUSY.encode(), limits=self._limits, timeouts=self._timeouts)
        self._stopping = False

    async def start(self) -> None:
        """Start to listen. Raises `AddressInUse`, or `SettingError` if the address cannot be used."""
        servers = await open_servers(self._listen, self._accept, accepting=False)
        self.addresses = addresses_of(servers)
        self.url = url_of(self._listen, servers)
        self._clients.start(take_sockets(servers))

    async def aclose(self) -> None:
        """Stop listening, and abort running requests, so that clients see an error. Idempotent."""
        self._stopping = True
        await self._clients.aclose()

    def _accept(self) -> ClientConnection:
        return ClientConnection(self._serve, self._clients, limits=self._limits, timeouts=self._timeouts)

    # -- one client

    async def _serve(self, client: ClientConnection) -> None:
        """Answer requests until the connection ends."""
        try:
            if not self._clients.take_place(client):
                await self._turn_away(client)
                return
            goes_on = await self._serve_one(client, is_new=True)
            while goes_on and not self._stopping:
                goes_on = await self._serve_one(client, is_new=False)
        except BadMessage as exc:
            self._refuse(client, failure(exc))
            await client.linger(self._timeouts.linger)
        except Exception:
            logger.exception("An internal error occurred while answering a client")
        finally:
            client.close()
            if client.stream:
                client.stream.close_client()

    async def _serve_one(self, client: ClientConnection, *, is_new: bool) -> bool:
        """Answer one request. Returns whether another one may follow. Raises `BadMessage`."""
        reader = RequestReader(self._limits)
        with self._clients.silent(client):
            events = await self._read_head(client, reader)
        if self._clients.has_lost_place(client):
            if is_new or events:  # a used connection that is idle may close at any time
                await self._turn_away(client)
            return False
        if not events:
            return False
        request = events[0]
        assert isinstance(request, RequestHeadReceived)
        if get_all(request.head.fields, PROBE_FIELD.lower()):
            self._refuse(client, PROBED)
            return False
        body = ClientBody(client, reader, events[1:])
        entry = self._ledger.begin(request.head)
        try:
            verdict = self._guard.judge(request)
            exchange = Exchange(client, verdict, body, entry, keepalive=self._keepalive, bench=self._bench)
            goes_on = await exchange.run(self._sessions, self._timeouts)
        finally:
            self._ledger.end(entry)
        if body.whole or (goes_on and await body.discard(self._timeouts.linger)):
            if goes_on:
                await client.drain()  # otherwise responses to a client that does not read would accumulate
            return goes_on
        await client.linger(self._timeouts.linger)
        return False

    async def _read_head(self, client: ClientConnection, reader: RequestReader) -> list[RequestEvent]:
        """Return the first events, which start with a head; empty if the client is done. Raises `BadMessage`."""
        try:
            async with asyncio.timeout(self._timeouts.idle_client):
                while not reader.begun:  # empty lines are not a request: RFC 9112 section 2.2
                    data = await client.read()
                    if not data:
                        return []
                    if events := reader.feed(data):
                        return events
        except TimeoutError:
            return []
        return await self._read_rest_of_head(client, reader)

    async def _read_rest_of_head(self, client: ClientConnection, reader: RequestReader) -> list[RequestEvent]:
        try:
            async with asyncio.timeout(self._timeouts.client_head):
                while data := await client.read():
                    if events := reader.feed(data):
                        return events
        except TimeoutError as exc:
            raise BadMessage(408, "its head did not arrive in time") from exc
        return []

    async def _turn_away(self, client: ClientConnection) -> None:
        self._refuse(client, BUSY)
        await client.linger(self._timeouts.linger)

    def _refuse(self, client: ClientConnection, told: Failure) -> None:
        logger.info("The proxy answered a client with %d %s", told.status, told.code)
        client.write(told.encode())
