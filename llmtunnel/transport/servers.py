"""What a STUN or TURN server says to one question, with no peer around: for a diagnosis."""

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
"""Seconds that a server has for its answer."""
Address = tuple[str, int]


async def mappings(urls: Sequence[str]) -> list[Address | ConnectFailed]:
    """As which address each STUN server sees *one* socket of this machine (RFC 8489), or why it did not say.

    A NAT that shows two servers two addresses shows a peer a third: nobody can send to it (RFC 5780 section 4.3).
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
    """The address that a TURN server relays for us (RFC 8656), given back at once. Raises `ConnectFailed`."""
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
    except Exception as exc:  # refused, no answer, or whatever a broken one makes aioice say
        raise _failure(url, exc) from exc
    address: Address = relay.get_extra_info("sockname")
    relay.close()
    await asyncio.wait((allocation.closed,), timeout=ASK)
    return address


def own_addresses() -> set[str]:
    """This machine's IPv4 addresses."""
    return set(get_host_addresses(use_ipv4=True, use_ipv6=False)) | {"127.0.0.1"}


class _Allocation(asyncio.DatagramProtocol):
    """What a TURN server relays for us; nothing is sent through it."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by aioice, when it is given back."""
        if not self.closed.done():
            self.closed.set_result(None)


class _Asker(asyncio.DatagramProtocol):
    """One socket, as `stun.Transaction` wants it."""

    def __init__(self) -> None:
        self._transactions: dict[bytes, stun.Transaction] = {}
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # which asyncio's own is no instance of

    def send_stun(self, message: stun.Message, addr: Address) -> None:
        """Called by the transaction, again and again until there is an answer."""
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
        """One binding request's answer."""
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
    except Exception as exc:  # no such name, no answer, or whatever a broken one makes aioice say
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
