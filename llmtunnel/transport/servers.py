"""STUN and TURN servers: their addresses, and one question to each, without a peer, for diagnosis.

The signal server may have named one. It is not trusted to choose whom we contact, so a name is looked up here, and its
address is checked. We connect to that address, and never to the name, which may have another address a moment later.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

from aioice import stun, turn
from aioice.ice import get_host_addresses
from aiortc.rtcicetransport import parse_stun_turn_uri

from .. import descriptors
from ..config import IceServers
from ..errors import ConnectFailed
from ..summary import printable
from .networks import Reach, permitted

ASK: Final = 4.0
"""Seconds that a server has to answer."""
Address = tuple[str, int]
_TRIED: Final = 4
"""Addresses of a name that are tried. Whoever controls a name could have us connect to many."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class IceServer:
    """A STUN or TURN server, with the credentials for it."""

    url: str
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    within: Reach | None = None
    """Which addresses it may have, if the signal server has named it. None: the user has named it, and it may have
    any."""

    @property
    def is_turn(self) -> bool:
        """Whether it is a TURN server."""
        return self.url.startswith("turn")


def each_of(servers: IceServers, within: Reach | None = None) -> tuple[IceServer, ...]:
    """Return the servers one by one. ``within``: see `IceServer`."""
    return (
        *(IceServer(url=url, within=within) for url in servers.stun),
        *(
            IceServer(url=url, user=servers.turn_user, password=servers.turn_pass, within=within)
            for url in servers.turn
        ),
    )


async def addresses(server: IceServer, *, family: int = socket.AF_UNSPEC) -> list[Address]:
    """Look up a server's name, and return the addresses that may be used. Raises `OSError` or `ConnectFailed`."""
    uri = parse_stun_turn_uri(server.url)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(uri["host"], uri["port"], family=family, type=socket.SOCK_DGRAM)
    hosts = list(dict.fromkeys(str(each[4][0]) for each in found))
    if server.within is not None:
        hosts = [host for host in hosts if permitted(host, server.within)]
        if not hosts:
            raise ConnectFailed(
                f"The signal server names {server.url}, whose address it may not name: only public ones, unless its own"
                " is private.",
                hint="Name the server yourself if you trust it, with --stun or --turn.",
            )
    return [(host, uri["port"]) for host in hosts[:_TRIED]]


async def connect(server: IceServer, use: Callable[[Address], Awaitable[T]]) -> T:
    """Return what ``use`` returns for the first address of a server that it can connect to.

    Raises `OSError`, `ConnectFailed`, or what else ``use`` raises.
    """
    failure: OSError | None = None
    for address in await addresses(server):
        try:
            return await use(address)
        except OSError as exc:
            failure = exc
    assert failure is not None, "a name that is found has an address"
    raise failure


def tls(server: IceServer) -> ssl.SSLContext | None:
    """Return the TLS for a TURN server (``turns:``), or None for one without TLS."""
    uri = parse_stun_turn_uri(server.url)
    if uri["scheme"] != "turns":
        return None
    context = _NamedTls(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    context.name = uri["host"]
    return context


class _NamedTls(ssl.SSLContext):
    """A TLS context that expects the certificate of a name.

    The loop passes the address that it connects to instead, and aioice does not let us pass the name.
    """

    name: str

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As `ssl.SSLContext.wrap_bio`, with our name."""
        return super().wrap_bio(incoming, outgoing, server_side, self.name, session)


async def mappings(asked: Sequence[IceServer]) -> list[Address | ConnectFailed]:
    """Return as which address each STUN server sees *one* socket of this machine (RFC 8489), or why it did not answer.

    If a NAT shows two addresses to two servers, it shows a third one to a peer, and nobody can send to that (RFC 5780
    section 4.3).
    """
    loop = asyncio.get_running_loop()
    try:
        transport, asker = await loop.create_datagram_endpoint(_Asker, local_addr=("0.0.0.0", 0))
    except OSError as exc:
        return [_failure(each, exc) for each in asked]
    try:
        return await asyncio.gather(*(_mapping(asker, each) for each in asked))
    finally:
        transport.close()


async def allocate(server: IceServer) -> Address:
    """Return the address that a TURN server relays for us (RFC 8656), and release it at once.

    Raises `ConnectFailed`.
    """

    def use(address: Address) -> Awaitable[tuple[Any, _Allocation]]:
        return turn.create_turn_endpoint(
            _Allocation,
            server_addr=address,
            username=server.user,
            password=server.password,
            ssl=tls(server),
            transport=parse_stun_turn_uri(server.url)["transport"],
        )

    try:
        async with asyncio.timeout(ASK):
            relay, allocation = await connect(server, use)
    except Exception as exc:  # refused, no answer, or any error that a broken one causes in aioice
        raise _failure(server, exc) from exc
    address: Address = relay.get_extra_info("sockname")
    relay.close()
    await asyncio.wait((allocation.closed,), timeout=ASK)
    return address


def own_addresses() -> set[str]:
    """Return this machine's IPv4 addresses."""
    return set(get_host_addresses(use_ipv4=True, use_ipv6=False)) | {"127.0.0.1"}


class _Allocation(asyncio.DatagramProtocol):
    """The end of an allocation at a TURN server. Nothing is sent through it."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by aioice when the allocation has been released."""
        if not self.closed.done():
            self.closed.set_result(None)


class _Asker(asyncio.DatagramProtocol):
    """One socket with the interface that `stun.Transaction` needs."""

    def __init__(self) -> None:
        self._transactions: dict[bytes, stun.Transaction] = {}
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # asyncio's own is not an instance of it

    def send_stun(self, message: stun.Message, addr: Address) -> None:
        """Called by the transaction, repeatedly until there is an answer."""
        self._transport.sendto(bytes(message), addr)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Called by the loop."""
        try:
            message = stun.parse_message(data)
        except ValueError:
            return
        if transaction := self._transactions.get(message.transaction_id):
            transaction.response_received(message, addr)

    async def ask(self, address: Address) -> stun.Message:
        """Send a binding request and return the answer."""
        request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        transaction = self._transactions[request.transaction_id] = stun.Transaction(request, address, self)
        try:
            answer, _ = await transaction.run()
        finally:
            del self._transactions[request.transaction_id]
        return answer


async def _mapping(asker: _Asker, server: IceServer) -> Address | ConnectFailed:
    try:
        async with asyncio.timeout(ASK):
            answer = await asker.ask((await addresses(server, family=socket.AF_INET))[0])
        host, port = answer.attributes["XOR-MAPPED-ADDRESS"]
    except Exception as exc:  # no such name, no answer, or any error that a broken one causes in aioice
        return _failure(server, exc)
    return str(host), int(port)


def _failure(server: IceServer, exc: Exception) -> ConnectFailed:
    failure = _explained(server, exc)
    if failure is not exc:
        failure.__cause__ = exc
    return failure


def _explained(server: IceServer, exc: Exception) -> ConnectFailed:
    url = server.url
    if none_left := descriptors.shortage(exc):
        return ConnectFailed(f"Cannot ask {url}: {none_left}.", hint=descriptors.RAISE_IT)
    match exc:
        case ConnectFailed():
            return exc
        case TimeoutError() | stun.TransactionTimeout():
            return ConnectFailed(f"{url} does not answer.")
        case socket.gaierror():
            return ConnectFailed(f"Cannot look up the host of {url}.")
        case stun.TransactionFailed() if exc.response.attributes.get("ERROR-CODE", (0, ""))[0] == 401:
            hint = "Check --turn-user, --turn-pass."
            if server.within is not None:
                hint = "Its operator should check the secret and the clock of the signal server and the TURN server."
            return ConnectFailed(f"{url} rejected the user name or password.", hint=hint)
    return ConnectFailed(f"Cannot use {url}: {printable(str(exc) or repr(exc))}.")
