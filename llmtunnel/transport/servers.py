"""Ask a STUN or TURN server one question, without a peer: for diagnosis."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Final, cast

from aioice import stun, turn
from aioice.ice import get_host_addresses
from aiortc.rtcicetransport import parse_stun_turn_uri

from .. import descriptors
from ..config import IceServers
from ..errors import ConnectFailed

ASK: Final = 4.0
"""Seconds that a server has to answer."""
Address = tuple[str, int]


async def mappings(urls: Sequence[str]) -> list[Address | ConnectFailed]:
    """Return as which address each STUN server sees *one* socket of this machine (RFC 8489), or why it did not answer.

    If a NAT shows two addresses to two servers, it shows a third one to a peer, and nobody can send to that (RFC 5780
    section 4.3).
    """
    loop = asyncio.get_running_loop()
    try:
        transport, asker = await loop.create_datagram_endpoint(_Asker, local_addr=("0.0.0.0", 0))
    except OSError as exc:
        return [_failure(url, exc) for url in urls]
    try:
        return await asyncio.gather(*(_mapping(asker, url) for url in urls))
    finally:
        transport.close()


async def allocate(url: str, servers: IceServers) -> Address:
    """Return the address that a TURN server relays for us (RFC 8656), and release it at once.

    Raises `ConnectFailed`.
    """
    server = parse_stun_turn_uri(url)
    try:
        async with asyncio.timeout(ASK):
            relay, allocation = await turn.create_turn_endpoint(
                _Allocation,
                server_addr=(server["host"], server["port"]),
                username=servers.turn_user,
                password=servers.turn_pass,
                ssl=server["scheme"] == "turns",
                transport=server["transport"],
            )
    except Exception as exc:  # refused, no answer, or any error that a broken one causes in aioice
        raise _failure(url, exc) from exc
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


async def _mapping(asker: _Asker, url: str) -> Address | ConnectFailed:
    server = parse_stun_turn_uri(url)
    try:
        async with asyncio.timeout(ASK):
            answer = await asker.ask(await _resolve(server["host"], server["port"]))
        host, port = answer.attributes["XOR-MAPPED-ADDRESS"]
    except Exception as exc:  # no such name, no answer, or any error that a broken one causes in aioice
        return _failure(url, exc)
    return str(host), int(port)


async def _resolve(host: str, port: int) -> Address:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    return str(found[0][4][0]), port


def _failure(url: str, exc: Exception) -> ConnectFailed:
    failure = _explained(url, exc)
    failure.__cause__ = exc
    return failure


def _explained(url: str, exc: Exception) -> ConnectFailed:
    if none_left := descriptors.shortage(exc):
        return ConnectFailed(f"Cannot ask {url}: {none_left}.", hint=descriptors.RAISE_IT)
    match exc:
        case TimeoutError() | stun.TransactionTimeout():
            return ConnectFailed(f"{url} does not answer.")
        case socket.gaierror():
            return ConnectFailed(f"Cannot look up the host of {url}.")
        case stun.TransactionFailed() if exc.response.attributes.get("ERROR-CODE", (0, ""))[0] == 401:
            return ConnectFailed(f"{url} rejected the user name or password.", hint="Check --turn-user, --turn-pass.")
    return ConnectFailed(f"Cannot use {url}: {str(exc) or repr(exc)}.")
