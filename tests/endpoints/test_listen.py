from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest

from llmtunnel.endpoints.gateway import Gateway
from llmtunnel.endpoints.listen import Listen, parse_listen, reachable
from llmtunnel.errors import AddressInUse, SettingError
from llmtunnel.listener import ListenerPolicy

from ..conftest import run
from .tunnel import NoPeer


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
        ("8000", "127.0.0.1", 8000),
        (":8000", "127.0.0.1", 8000),
        ("localhost:0", "127.0.0.1", 0),
        ("[::1]:8000", "::1", 8000),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("my-host.local:65535", "my-host.local", 65535),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == Listen(host=host, port=port)


@pytest.mark.parametrize(
    "text", ["", "localhost", "a:b", "::1:8000", "1:2:3", "127.0.0.1:65536", "http://a:1", "[::1]"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SettingError):
        parse_listen(text)


def test_an_url_names_an_address_that_clients_can_reach() -> None:
    assert reachable("0.0.0.0", 1) == "127.0.0.1:1"
    assert reachable("::", 1) == "[::1]:1"
    assert reachable("example", 1) == "example:1"


def test_a_free_port_is_taken_at_both_loopback_addresses() -> None:
    async def main() -> None:
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

    run(main())


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_the_address_beside_is_left_out_where_it_is_taken() -> None:
    async def main() -> None:
        with closing(socket.socket(socket.AF_INET6)) as other:
            other.bind(("::1", 0))
            other.listen()
            port = other.getsockname()[1]
            gateway = Gateway(NoPeer(), listen=f"127.0.0.1:{port}")
            await gateway.start()
            assert gateway.addresses == (f"127.0.0.1:{port}",)
            await gateway.aclose()

    run(main())


def test_a_port_in_use_is_said_with_the_next_free_one() -> None:
    async def main() -> None:
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

    run(main())


def test_a_port_is_free_again_after_the_close() -> None:
    async def main() -> None:
        first = Gateway(NoPeer(), listen="0")
        await first.start()
        await first.aclose()
        await first.aclose()
        again = Gateway(NoPeer(), listen=first.addresses[0])
        await again.start()
        await again.aclose()

    run(main())


@pytest.mark.parametrize("address", ["192.0.2.1:8000", "no-such-host.invalid:8000"])
def test_an_address_of_another_machine_is_refused(address: str) -> None:
    async def main() -> None:
        with pytest.raises(SettingError, match="not an address of this machine"):
            await Gateway(NoPeer(), listen=address, policy=ListenerPolicy(no_auth=True)).start()

    run(main())
