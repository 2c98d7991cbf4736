"""A listener alone, with a protocol that sends a greeting."""

import asyncio
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.addresses import Address
from sidecar.errors import SettingsError
from sidecar.proxy.downstream.certificate import Certificate
from sidecar.proxy.downstream.listener import Listener, bind_tcp
from tests.support.certificate_authority import Authority

ANYWHERE = Address("127.0.0.1", 0)


class Hello(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(b"hello\n")  # type: ignore[attr-defined]
        transport.close()


class Greeting:
    """An acceptor that accepts all connections and records them and failed handshakes."""

    def __init__(self) -> None:
        self.came: list[Hello] = []
        self.peers: list[object] = []
        self.left: list[Hello] = []

    def new_connection(self) -> Hello:
        return Hello()

    def take_slot(self, protocol: Hello, peer: object) -> bool:
        self.came.append(protocol)
        self.peers.append(peer)
        return True

    def free_slot(self, protocol: Hello) -> None:
        self.left.append(protocol)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
async def secure(authority: Authority) -> AsyncIterator[Listener]:
    pair = authority.issue("leaf")
    listener = Listener(ANYWHERE, certificate=Certificate(pair.cert, pair.key))
    yield listener
    await listener.stop()


async def greeting_by_tls(authority: Authority, sock: socket.socket) -> bytes:
    context = ssl.create_default_context(cafile=authority.cert)
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=context, server_hostname="localhost"
        )
        try:
            return await reader.readline()
        finally:
            writer.transport.abort()


async def test_I9_without_descriptors_clients_wait_until_some_are_free(
    secure: Listener, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    await secure.start(Greeting())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket()
    client.setblocking(False)
    lowest = os.dup(0)
    os.close(lowest)
    output = ""
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", secure.port))
        async with asyncio.timeout(20):
            while "accept_failed" not in output:
                await asyncio.sleep(0.01)
                output += "".join(capsys.readouterr())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert await greeting_by_tls(authority, client) == b"hello\n"


async def test_stop_cancels_handshakes_and_frees_the_port(secure: Listener) -> None:
    greeting = Greeting()
    await secure.start(greeting)
    port = secure.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(20):
        while not greeting.came:
            await asyncio.sleep(0.01)
        await secure.stop()
        await secure.stop()
        assert await reader.read() == b""
    writer.close()
    assert greeting.left == greeting.came
    assert greeting.peers == [writer.get_extra_info("sockname")]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_host_with_several_addresses_listens_on_one_port() -> None:
    listener = Listener(Address("localhost", 0))
    await listener.start(Greeting())
    found = {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    for host in found:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(host, listener.port)
            assert await reader.read() == b"hello\n"
        writer.close()
    await listener.stop()


async def test_two_listeners_share_a_port_only_with_reuse_port() -> None:
    first = Listener(ANYWHERE, reuse_port=True)
    await first.start(Greeting())
    address = Address("127.0.0.1", first.port)
    second = Listener(address, reuse_port=True)
    await second.start(Greeting())
    alone = Listener(address)
    with pytest.raises(SettingsError, match=f"{address} is in use; .* --listen HOST:PORT"):
        await alone.start(Greeting())
    await first.stop()
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b"hello\n"
    writer.close()
    await second.stop()


def test_an_unavailable_address_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1:80 cannot be used: .*--listen"):
        bind_tcp(Address("192.0.2.1", 80), reuse_port=False)
