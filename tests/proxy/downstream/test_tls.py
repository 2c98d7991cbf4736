"""Requests over TLS, and certificates that are replaced while requests are in flight."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import SettingsError
from sidecar.proxy.downstream.certificate import Certificate
from tests.support.certificate_authority import Authority, Pair, encrypt_key, end_date
from tests.support.stage import Stage, StartStage, status

CALL = b"GET /items HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("first")


def trusting(authority: Authority, client: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.cert)
    if client is not None:
        context.load_cert_chain(client.cert, client.key)
    return context


class Connection:
    """A client's TLS connection to a stage."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, here: Stage, context: ssl.SSLContext) -> "Connection":
        port = here.app.data_port.port
        async with asyncio.timeout(10):
            return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context))

    async def call(self) -> int:
        self.writer.write(CALL)
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
            await self.reader.readexactly(int(length))
        return status(head)

    @property
    def subject(self) -> str:
        """The common name of the server's certificate."""
        shown: Any = self.writer.get_extra_info("ssl_object").getpeercert()
        return str(dict(field[0] for field in shown["subject"])["commonName"])

    def close(self) -> None:
        self.writer.transport.abort()


def swap(pair: Pair, links: Path) -> None:
    """Replace ..data, into which the files link, as Kubernetes does with a mounted Secret."""
    folder = links / f"..{pair.cert.stem}"
    folder.mkdir(parents=True)
    (folder / "tls.crt").write_bytes(pair.cert.read_bytes())
    (folder / "tls.key").write_bytes(pair.key.read_bytes())
    (links / "..data_tmp").symlink_to(folder.name)
    (links / "..data_tmp").rename(links / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (links / name).is_symlink():
            (links / name).symlink_to(Path("..data") / name)


async def test_a_request_over_tls_is_served_as_http_1_1(
    stage: StartStage, authority: Authority, pair: Pair
) -> None:
    here = await stage(tls_cert=str(pair.cert), tls_key=str(pair.key))
    assert here.app.listener.scheme == b"https"
    context = trusting(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = await Connection.to(here, context)
    assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    assert [await client.call() for _ in range(3)] == [200, 200, 200]
    assert len(await here.events()) == 3
    assert here.upstream.received.count(b"X-Forwarded-Proto: https\r\n") == 3
    client.close()


async def test_curl_is_served_over_tls(stage: StartStage, authority: Authority, pair: Pair) -> None:
    here = await stage(tls_cert=str(pair.cert), tls_key=str(pair.key))
    curl = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "20", "--cacert", str(authority.cert), "-H", "X-Api-Key: acme",
        f"https://localhost:{here.app.data_port.port}/items?n=[1-3]", "--ipv4",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await curl.communicate()
    assert (curl.returncode, out) == (0, b"okokok")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_supported(
    stage: StartStage, authority: Authority, pair: Pair, version: ssl.TLSVersion
) -> None:
    here = await stage(tls_cert=str(pair.cert), tls_key=str(pair.key))
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    client = await Connection.to(here, context)
    assert await client.call() == 200
    client.close()


def test_older_tls_versions_are_refused(pair: Pair) -> None:
    context = Certificate(pair.cert, pair.key).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.fixture
async def renewed(
    stage: StartStage, authority: Authority, pair: Pair, tmp_path: Path
) -> AsyncIterator[tuple[Stage, Path]]:
    """A stage whose certificate is mounted like a Secret, and the directory of the mount."""
    mount = tmp_path / "mount"
    swap(pair, mount)
    yield await stage(tls_cert=str(mount / "tls.crt"), tls_key=str(mount / "tls.key")), mount


async def test_a_replaced_certificate_serves_new_connections_and_open_ones_stay(
    renewed: tuple[Stage, Path], authority: Authority
) -> None:
    here, mount = renewed
    old = await Connection.to(here, trusting(authority))
    assert await old.call() == 200
    # Another type of key: in the same context, the first certificate would stay.
    swap(authority.issue("second", rsa=True), mount)
    certificate = here.app.listener.certificate
    assert certificate is not None
    certificate.check()
    assert certificate.reloads == 0  # it may still be incomplete
    certificate.check()
    assert certificate.reloads == 1
    new = await Connection.to(here, trusting(authority))
    assert (old.subject, new.subject) == ("first", "second")
    assert [await old.call(), await new.call()] == [200, 200]
    old.close()
    new.close()


async def test_the_certificate_files_are_watched(
    renewed: tuple[Stage, Path], authority: Authority
) -> None:
    here, mount = renewed
    swap(authority.issue("watched"), mount)
    async with asyncio.timeout(20):
        while True:
            client = await Connection.to(here, trusting(authority))
            client.close()
            if client.subject == "watched":
                break
            await asyncio.sleep(0.05)


async def test_an_invalid_pair_is_logged_once_and_the_last_valid_one_stays(
    renewed: tuple[Stage, Path], authority: Authority
) -> None:
    here, mount = renewed
    stranger, other = authority.issue("stranger"), authority.issue("other")
    swap(Pair(stranger.cert, other.key), mount)
    certificate = here.app.listener.certificate
    assert certificate is not None
    for _ in range(5):
        certificate.check()
    assert (certificate.failures, certificate.current) == (1, False)
    read = here.app.metrics.registry.get_sample_value
    assert read("sidecar_tls_certificate_ok") == 0
    assert read("sidecar_tls_reload_failures_total") == 1
    client = await Connection.to(here, trusting(authority))
    assert (client.subject, await client.call()) == ("first", 200)
    client.close()
    swap(other, mount)
    here.app.reload()  # what SIGHUP does
    assert (read("sidecar_tls_certificate_ok"), read("sidecar_tls_reloads_total")) == (1, 1)
    client = await Connection.to(here, trusting(authority))
    assert client.subject == "other"
    client.close()


async def test_the_expiry_of_the_live_certificate_is_a_metric(
    stage: StartStage, pair: Pair
) -> None:
    here = await stage(tls_cert=str(pair.cert), tls_key=str(pair.key))
    expiry = here.app.metrics.registry.get_sample_value(
        "sidecar_tls_certificate_expiry_timestamp_seconds"
    )
    assert expiry == ssl.cert_time_to_seconds(end_date(pair.cert))


async def test_clients_need_a_certificate_of_the_client_ca(
    stage: StartStage, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    clients, strangers = Authority(tmp_path / "clients"), Authority(tmp_path / "strangers")
    here = await stage(
        tls_cert=str(pair.cert), tls_key=str(pair.key), tls_client_ca=str(clients.cert)
    )
    known = await Connection.to(here, trusting(authority, clients.issue("known")))
    assert await known.call() == 200
    known.close()
    for client in (None, strangers.issue("stranger")):
        # With TLS 1.3 the client gets the alert when it reads.
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await (await Connection.to(here, trusting(authority, client))).call()
    assert here.app.listener.handshake_failures == 2
    assert len(await here.events()) == 1


async def test_a_removed_client_ca_is_no_longer_trusted(
    stage: StartStage, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    before, after = Authority(tmp_path / "before"), Authority(tmp_path / "after")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(before.cert.read_bytes())
    here = await stage(tls_cert=str(pair.cert), tls_key=str(pair.key), tls_client_ca=str(ca))
    context = trusting(authority, before.issue("former"))
    client = await Connection.to(here, context)
    assert await client.call() == 200
    ca.write_bytes(after.cert.read_bytes())
    here.app.reload()
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await (await Connection.to(here, context)).call()
    assert await client.call() == 200  # it was verified before the change
    client.close()


async def test_I9_a_silent_handshake_has_a_slot_until_it_times_out(
    stage: StartStage, authority: Authority, pair: Pair
) -> None:
    here = await stage(
        tls_cert=str(pair.cert), tls_key=str(pair.key), max_connections="2", header_timeout_s="0.3"
    )
    port = here.app.data_port.port
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await Connection.to(here, trusting(authority))
    assert _refused(here, "full") == 1
    async with asyncio.timeout(10):
        for reader, writer in silent:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.close()
        while here.app.data_port.connections:
            await asyncio.sleep(0.01)
    assert here.app.listener.handshake_failures == 2
    client = await Connection.to(here, trusting(authority))
    assert await client.call() == 200
    client.close()


def _refused(here: Stage, reason: str) -> float | None:
    name = "sidecar_connections_refused_total"
    return here.app.metrics.registry.get_sample_value(name, {"reason": reason})


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_failed_handshake_leaks_no_descriptor(
    stage: StartStage, authority: Authority, pair: Pair
) -> None:
    here = await stage(tls_cert=str(pair.cert), tls_key=str(pair.key))
    for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(10):
            try:
                await reader.read()
            except ConnectionError:
                writer.close()
        writer.close()
    async with asyncio.timeout(10):
        while here.app.data_port.connections:
            await asyncio.sleep(0.01)
    before = descriptors()
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
        writer.write(b"nonsense\r\n")
        writer.transport.abort()
    async with asyncio.timeout(10):
        while here.app.listener.handshake_failures < 23 or here.app.data_port.connections:
            await asyncio.sleep(0.01)
        while descriptors() > before:
            await asyncio.sleep(0.01)
    client = await Connection.to(here, trusting(authority))
    assert await client.call() == 200
    client.close()


def test_an_unusable_pair_is_an_error_that_names_the_flag(
    authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    encrypt_key(pair.key, locked)
    other, junk = authority.issue("mismatch"), tmp_path / "junk.pem"
    junk.write_text("nothing")
    for cert, key, message in (
        (pair.cert, other.key, "key values mismatch"),
        (pair.cert, locked, f"{locked} is encrypted; store the private key without a password"),
        (junk, pair.key, f"{junk} is not in PEM format"),
        (tmp_path / "absent.pem", pair.key, f"{tmp_path / 'absent.pem'} cannot be read"),
    ):
        with pytest.raises(SettingsError, match="--tls-cert") as caught:
            Certificate(cert, key)
        assert message in str(caught.value)


def test_an_expired_certificate_is_loaded_and_logged(
    authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    old = authority.issue("old")
    certificate = Certificate(old.cert, old.key, now=lambda: 1e12)
    assert certificate.not_after == ssl.cert_time_to_seconds(end_date(old.cert))
    assert "certificate_expired" in "".join(capsys.readouterr())
