from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from llmtunnel.config import DEFAULT_PORT
from llmtunnel.endpoints.gateway import Gateway
from llmtunnel.endpoints.listen import Listen, parse_listen
from llmtunnel.errors import AddressInUse, SettingError
from llmtunnel.listener import ListenerPolicy

from ..conftest import run
from ..support.gateway_rig import NoPeer
from ..support.ports import free_port

try:
    from uvloop import new_event_loop
except ImportError:  # Windows
    new_event_loop = None  # type: ignore[assignment]


def has_ipv6() -> bool:
    try:
        with closing(socket.socket(socket.AF_INET6)) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000),
        ("8001", "127.0.0.1", 8001),
        (":8001", "127.0.0.1", 8001),
        ("localhost:0", "127.0.0.1", 0),
        ("jupyter.localhost:0", "127.0.0.1", 0),
        ("LocalHost.", "127.0.0.1", DEFAULT_PORT),
        ("[::1]:8001", "::1", 8001),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("my-host.local:65535", "my-host.local", 65535),
        # no port
        ("localhost", "127.0.0.1", DEFAULT_PORT),
        ("127.0.0.2", "127.0.0.2", DEFAULT_PORT),
        ("0.0.0.0", "0.0.0.0", DEFAULT_PORT),
        ("gpu.lan", "gpu.lan", DEFAULT_PORT),
        (" gpu ", "gpu", DEFAULT_PORT),
        ("[::1]", "::1", DEFAULT_PORT),
        ("::1", "::1", DEFAULT_PORT),
        ("::", "::", DEFAULT_PORT),
        ("[::]", "::", DEFAULT_PORT),
        ("fe80::1%eth0", "fe80::1%eth0", DEFAULT_PORT),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("2001:db8:0:0:0:0:0:1", "2001:db8::1", DEFAULT_PORT),
        # other spellings of an address, as the system's resolver reads them
        ("0:80", "0.0.0.0", 80),
        ("127.1:80", "127.0.0.1", 80),
        ("0x7f.1", "127.0.0.1", DEFAULT_PORT),
        ("[0:0:0:0:0:0:0:0]:80", "::", 80),
        ("[0:0:0:0:0:0:0:1]", "::1", DEFAULT_PORT),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1", 80),
        ("::ffff:0.0.0.0", "0.0.0.0", DEFAULT_PORT),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == Listen(host=host, port=port)


def test_an_address_without_a_port_takes_the_one_that_is_usual_there() -> None:
    assert parse_listen("localhost", port=8900).port == 8900
    assert parse_listen("localhost:1", port=8900).port == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ":",
        "a:",
        "a:b",
        "::1:8000",
        "2001:db8::5:80",
        "1:2:3",
        "127.0.0.1:65536",
        "http://a:1",
        "a/b",
        "a b",
        "[::1",
        "[::1]:",
        "[localhost]",
        "[127.0.0.1]:80",
        "user@a",
        "a#b",
        "127.0.0.1/8",
        "[::1]8000",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_listen(text)
    assert "[::1]:8000" in caught.value.hint


async def test_a_free_port_is_taken_at_both_loopback_addresses() -> None:
    gateway = Gateway(NoPeer(), listen="localhost:0")
    assert gateway.url == ""
    await gateway.start()
    port = gateway.url.rpartition(":")[2]
    assert gateway.url == f"http://127.0.0.1:{port}"
    expected = [f"127.0.0.1:{port}", *([f"[::1]:{port}"] if has_ipv6() else [])]
    assert list(gateway.addresses) == expected
    for host in ("127.0.0.1", "::1")[: len(expected)]:
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        await writer.wait_closed()
    await gateway.aclose()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_the_address_beside_is_left_out_where_it_is_taken() -> None:
    with closing(socket.socket(socket.AF_INET6)) as other:
        other.bind(("::1", 0))
        other.listen()
        port = other.getsockname()[1]
        gateway = Gateway(NoPeer(), listen=f"127.0.0.1:{port}")
        await gateway.start()
        assert gateway.addresses == (f"127.0.0.1:{port}",)
        await gateway.aclose()


async def answers(host: str, port: int) -> bool:
    """Whether a listener is reached there."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


LOOPS = [asyncio.new_event_loop, *((new_event_loop,) if new_event_loop else ())]
OPEN = ListenerPolicy(no_auth=True)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__module__)
@pytest.mark.parametrize("listen", ["[::]:0", "[::]:{port}", "[0::0]:{port}"])
def test_every_ipv6_address_is_every_ipv4_address_too(
    loop: Callable[[], asyncio.AbstractEventLoop], listen: str
) -> None:
    async def main() -> None:
        gateway = Gateway(NoPeer(), listen=listen.format(port=free_port()), policy=OPEN)
        await gateway.start()
        port = int(gateway.url.rpartition(":")[2])
        assert gateway.url == f"http://127.0.0.1:{port}"
        assert gateway.addresses == (f"[::]:{port}", f"0.0.0.0:{port}")
        assert [await answers(host, port) for host in ("127.0.0.1", "::1", "127.0.0.2")] == [True] * 3
        await gateway.aclose()
        assert [await answers(host, port) for host in ("127.0.0.1", "::1")] == [False] * 2

    run(main(), loop_factory=loop)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("taken", ["0.0.0.0", "127.0.0.1", "::"])
async def test_half_of_every_address_is_not_listened_on_where_another_program_has_the_port(taken: str) -> None:
    with closing(socket.socket(socket.AF_INET6 if ":" in taken else socket.AF_INET)) as other:
        if ":" in taken:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind((taken, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AddressInUse) as caught:
            await Gateway(NoPeer(), listen=f"[::]:{port}", policy=OPEN).start()
        assert caught.value.address == f"[::]:{port}"
        assert not taken.startswith("127") or not await answers("::1", port)
        again = Gateway(NoPeer(), listen=f"[::]:{caught.value.next_free}", policy=OPEN)
        await again.start()
        await again.aclose()


def without(family: str, monkeypatch: pytest.MonkeyPatch, problem: OSError | None) -> None:
    """A system without IPv4 or IPv6: ``problem`` is what it says, None for asyncio's silence."""
    bound = asyncio.base_events.BaseEventLoop.create_server

    async def create_server(self: asyncio.BaseEventLoop, factory: object, host: str, *args: Any, **kw: Any) -> Any:
        if (":" in host) is not (family == "IPv6"):
            return await bound(self, factory, host, *args, **kw)  # type: ignore[arg-type]
        if problem is None:
            return asyncio.base_events.Server(self, [], factory, None, 1, None)  # type: ignore[call-arg,arg-type]
        raise problem

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "create_server", create_server)


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.EAFNOSUPPORT, "no such family"),
        OSError(errno.EADDRNOTAVAIL, "no such address"),
        OSError("could not bind on any address"),  # Python 3.12 and later
        socket.gaierror(socket.EAI_NONAME, "no such name"),
        None,
    ],
    ids=repr,
)
@pytest.mark.parametrize("missing", ["IPv4", "IPv6"])
def test_where_the_machine_has_one_family_alone_every_address_is_that_ones(
    missing: str, problem: OSError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "IPv4" and not has_ipv6():
        return
    without(missing, monkeypatch, problem)

    async def main() -> None:
        gateway = Gateway(NoPeer(), listen="[::]:0", policy=OPEN)
        await gateway.start()
        port = gateway.url.rpartition(":")[2]
        if missing == "IPv6":
            assert (gateway.url, gateway.addresses) == (f"http://127.0.0.1:{port}", (f"0.0.0.0:{port}",))
        else:
            assert (gateway.url, gateway.addresses) == (f"http://[::1]:{port}", (f"[::]:{port}",))
        await gateway.aclose()

    run(main(), loop_factory=asyncio.SelectorEventLoop)


async def test_a_port_in_use_is_said_with_the_next_free_one() -> None:
    first = Gateway(NoPeer(), listen="127.0.0.1:0")
    await first.start()
    port = int(first.url.rpartition(":")[2])
    with pytest.raises(AddressInUse) as caught:
        await Gateway(NoPeer(), listen=f"127.0.0.1:{port}").start()
    assert caught.value.address == f"127.0.0.1:{port}"
    assert caught.value.next_free
    second = Gateway(NoPeer(), listen=str(caught.value.next_free))
    await second.start()
    await second.aclose()
    await first.aclose()


async def test_a_port_is_free_again_after_the_close() -> None:
    first = Gateway(NoPeer(), listen="0")
    await first.start()
    await first.aclose()
    await first.aclose()
    again = Gateway(NoPeer(), listen=first.addresses[0])
    await again.start()
    await again.aclose()


@pytest.mark.parametrize("address", ["192.0.2.1:8000", "no-such-host.invalid:8000"])
async def test_an_address_of_another_machine_is_refused(address: str) -> None:
    with pytest.raises(SettingError, match="this machine does not have that address"):
        await Gateway(NoPeer(), listen=address, policy=ListenerPolicy(no_auth=True)).start()
