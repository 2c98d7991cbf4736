"""Connections to the upstream: unix socket, TLS, names, and replies if they fail."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from sidecar.proxy.bounds import Bounds
from sidecar.proxy.upstream.address import Upstream as Where
from sidecar.proxy.upstream.pool import UpstreamPool
from tests.support.certificate_authority import Authority
from tests.support.stage import StartStage, Upstream, problem, status


async def test_the_upstream_is_reached_over_a_unix_socket(
    stage: StartStage, tmp_path: Path
) -> None:
    api = Upstream()
    path = tmp_path / "api.sock"
    async with await asyncio.start_unix_server(api.serve, path):
        here = await stage(upstream=f"unix:{path}")
        for _ in range(2):
            assert status(await here.call("GET", "/x")) == 200
        assert api.connections == 1
        assert api.received.startswith(b"GET /x HTTP/1.1\r\nHost: api.test\r\n")


async def test_a_missing_unix_socket_is_a_502(stage: StartStage, tmp_path: Path) -> None:
    here = await stage(upstream=f"unix:{tmp_path}/none.sock")
    assert problem(await here.call("GET", "/x"))["status"] == 502


class Tls:
    """A real TLS server that records the client's certificates."""

    def __init__(self, authority: Authority, *, wants_client: bool = False) -> None:
        pair = authority.issue("api")
        self.api = Upstream()
        self.names: list[str | None] = []
        self.subjects: list[object] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair.cert, pair.key)
        self.context.sni_callback = lambda _sock, name, _context: self.names.append(name)
        if wants_client:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(authority.cert)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.subjects.append(writer.get_extra_info("peercert"))
        await self.api.serve(reader, writer)

    async def start(self) -> tuple[asyncio.Server, int]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.context)
        return server, server.sockets[0].getsockname()[1]


async def test_the_upstream_is_reached_over_tls_with_a_private_ca(
    stage: StartStage, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    tls = Tls(authority)
    server, port = await tls.start()
    async with server:
        here = await stage(upstream=f"https://localhost:{port}", upstream_ca=str(authority.cert))
        assert status(await here.call("GET", "/x")) == 200
        assert tls.names == ["localhost"]
        assert b"X-Forwarded-Proto: http\r\n" in tls.api.received


async def test_the_name_in_the_certificate_may_differ_from_the_host(
    stage: StartStage, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    tls = Tls(authority)
    server, port = await tls.start()
    async with server:
        flags = {"upstream": f"https://127.0.0.1:{port}", "upstream_ca": str(authority.cert)}
        here = await stage(**flags, upstream_server_name="localhost")
        assert status(await here.call("GET", "/x")) == 200
        assert tls.names == ["localhost"]
        other = await stage(**flags, upstream_server_name="other.example")
        assert problem(await other.call("GET", "/x"))["title"] == "The API cannot be reached"


async def test_an_unverified_upstream_gets_no_request(stage: StartStage, tmp_path: Path) -> None:
    tls = Tls(Authority(tmp_path / "other"))
    server, port = await tls.start()
    async with server:
        authority = Authority(tmp_path / "authority")
        here = await stage(upstream=f"https://localhost:{port}", upstream_ca=str(authority.cert))
        document = problem(await here.call("GET", "/x"))
        assert (document["status"], document["detail"]) == (
            502, "No secure connection to the API can be made."
        )  # fmt: skip
        assert tls.api.received == b""
        [event] = await here.events()
        assert event["data"]["reason"] == "upstream_refused"


async def test_an_upstream_that_requires_a_client_certificate_gets_it(
    stage: StartStage, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    tls = Tls(authority, wants_client=True)
    pair = authority.issue("sidecar")
    server, port = await tls.start()
    async with server:
        flags = {"upstream": f"https://localhost:{port}", "upstream_ca": str(authority.cert)}
        here = await stage(**flags, upstream_cert=str(pair.cert), upstream_key=str(pair.key))
        assert status(await here.call("GET", "/x")) == 200
        assert "sidecar" in str(tls.subjects[0])
        bare = await stage(**flags)
        assert status(await bare.call("GET", "/x")) == 502


async def test_connections_to_a_former_address_of_the_name_are_not_reused() -> None:
    """The resolver is a stand-in, because a test cannot change the records of a real one."""
    api = Upstream()
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = UpstreamPool(Where("localhost", port), Bounds())
    loop = asyncio.get_running_loop()
    answers = ["127.0.0.1"]

    async def resolve(_host: str, _port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in answers]

    class Loop:
        def __getattr__(self, name: str) -> object:
            return resolve if name == "getaddrinfo" else getattr(loop, name)

    async with server:
        connection = await pool.acquire()
        connection.pause_reading()  # of a slow client
        pool.release(connection)
        assert connection.reading
        pool._loop = Loop()  # type: ignore[assignment]
        await pool._resolve()
        assert pool.take_idle("", critical=True) is connection
        pool.release(connection)
        answers[:] = ["127.0.0.2"]
        await pool._resolve()
        assert pool.take_idle("", critical=True) is None
        assert pool.places.taken == 0
        async with asyncio.timeout(20):
            while pool.size:  # until it has closed
                await asyncio.sleep(0)
        pool.close()


async def test_a_connection_is_closed_when_it_was_idle_for_too_long() -> None:
    server = await asyncio.start_server(Upstream().serve, "127.0.0.1", 0)
    pool = UpstreamPool(Where("127.0.0.1", server.sockets[0].getsockname()[1]), Bounds())
    now = 1_000.0
    pool.now = lambda: now
    async with server:
        pool.release(await pool.acquire())
        now += pool.bounds.upstream_idle
        pool.sweep(now)
        assert pool.idle == 1
        pool.sweep(now + 1)
        assert pool.idle == 0
        pool.close()


@pytest.mark.parametrize("flag", ["upstream_ca", "upstream_cert"])
async def test_unusable_certificate_files_are_an_error_at_the_start(
    stage: StartStage, tmp_path: Path, flag: str
) -> None:
    from sidecar.errors import SettingsError

    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    flags = {flag: str(bad)} | ({"upstream_key": str(bad)} if flag == "upstream_cert" else {})
    with pytest.raises(SettingsError, match="cannot be used"):
        await stage(upstream="https://localhost:1", **flags)
