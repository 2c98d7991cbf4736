"""Connecting to Redis: passwords and users, databases, TLS, a unix socket."""

import ssl
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account, Claim
from sidecar.errors import StoreUnavailable
from sidecar.stores import RedisLimitStore
from sidecar.stores.connection.wire import PING, encode
from tests.support.certificate_authority import Authority
from tests.support.stores.wire_ends import (
    a_server,
    a_tls_terminator,
    a_wire,
    until_reconnected,
    until_up,
)

ACME = Account("acme", "pro")
CLAIMS = (Claim(QuotaLimit("monthly", "requests", 100, "month", 100), 1, False),)
PASSWORD = "p@ss:/w%rd #1"


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].removesuffix("/0"))


@pytest.mark.parametrize(
    ("credentials", "refusal"),
    [
        (f":{quote(PASSWORD, safe='')}@", ""),
        (f"default:{quote(PASSWORD, safe='')}@", ""),
        (":hidden-word@", "WRONGPASS"),
        ("", "NOAUTH"),
    ],
)
async def test_a_password_is_needed_and_never_shown(
    tmp_path: Path, credentials: str, refusal: str
) -> None:
    with a_server(tmp_path, "--requirepass", PASSWORD) as server:
        async with a_wire(f"redis://{credentials}127.0.0.1:{server.port}/0") as wire:
            assert wire.up is (refusal == "")
            assert refusal in wire.last_error
            if refusal:
                assert wire.last_error.startswith(f"127.0.0.1:{server.port}: Redis refused")
                with pytest.raises(StoreUnavailable, match=refusal) as caught:
                    await wire.execute(PING)
                for text in (wire.last_error, str(caught.value)):
                    assert "hidden-word" not in text and PASSWORD not in text
            else:
                assert await wire.execute(PING) == b"PONG"


LIMITED = ("--user", "limited", "on", ">user-word", "~qs:*", "+@all", "-@dangerous")


@pytest.mark.parametrize(
    ("credentials", "refusal"),
    [
        ("limited:user-word@", ""),
        ("limited:hidden-word@", "WRONGPASS"),
        ("nobody:user-word@", "WRONGPASS"),
    ],
)
async def test_the_user_of_the_url_is_authenticated(
    tmp_path: Path, credentials: str, refusal: str
) -> None:
    with a_server(tmp_path, *LIMITED) as server:
        async with a_wire(f"redis://{credentials}127.0.0.1:{server.port}/0") as wire:
            assert wire.up is (refusal == "")
            assert refusal in wire.last_error
            assert "-word" not in wire.last_error
            if not refusal:
                assert await wire.execute(encode(b"ACL", b"WHOAMI")) == b"limited"
                assert (await RedisLimitStore(wire).reserve(ACME, "k1", CLAIMS)).granted


@pytest.mark.parametrize("denied", ["-time", "-evalsha"])
async def test_a_command_that_the_acl_forbids_is_an_unavailable_store(
    tmp_path: Path, denied: str
) -> None:
    user = ("--user", "limited", "on", ">user-word", "~*", "+@all", denied)
    with a_server(tmp_path, *user) as server:
        async with a_wire(f"redis://limited:user-word@127.0.0.1:{server.port}/0") as wire:
            store = RedisLimitStore(wire)
            for ask in (store.reserve, store.peek):
                with pytest.raises(StoreUnavailable, match="NOPERM"):
                    await ask(ACME, "k1", CLAIMS)


async def test_a_changed_password_is_reported_and_a_valid_one_reconnects(
    tmp_path: Path,
) -> None:
    with a_server(tmp_path, "--requirepass", "first-word") as server:
        async with a_wire(f"redis://:first-word@127.0.0.1:{server.port}/0") as wire:
            with redis.Redis(port=server.port, password="first-word") as client:
                client.config_set("requirepass", "second-word")
                client.client_kill_filter(_type="normal", skipme=True)
                await until_up(wire, up=False)
                with pytest.raises(StoreUnavailable, match=r"WRONGPASS|lost"):
                    await wire.execute(PING)
                client.config_set("requirepass", "first-word")
            await until_up(wire)


@pytest.mark.parametrize(("path", "number"), [("", 0), ("/", 0), ("/0", 0), ("/3", 3)])
async def test_the_path_selects_the_database(valkey_url: str, path: str, number: int) -> None:
    async with a_wire(valkey_url.removesuffix("/0") + path) as wire:
        assert await wire.execute(encode(b"SET", b"here", b"1")) == b"OK"
    with redis.Redis(port=port_of(valkey_url), db=number) as client:
        assert client.keys() == [b"here"]


async def test_a_missing_database_is_reported(valkey_url: str) -> None:
    async with a_wire(valkey_url.removesuffix("/0") + "/99") as wire:
        assert not wire.up
        assert "DB index is out of range" in wire.last_error


async def test_a_unix_socket_reaches_the_same_redis(tmp_path: Path) -> None:
    path = tmp_path / "v.sock"
    with a_server(tmp_path, "--unixsocket", str(path), "--requirepass", "word") as server:
        async with a_wire(f"unix://:word@{path}") as wire:
            assert (await RedisLimitStore(wire).reserve(ACME, "k1", CLAIMS)).used == (1,)
        async with a_wire(f"redis://:word@127.0.0.1:{server.port}/0") as wire:
            assert (await RedisLimitStore(wire).reserve(ACME, "k1", CLAIMS)).used == (2,)


async def test_a_missing_unix_socket_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "v.sock"
    async with a_wire(f"unix://{path}") as wire:
        assert not wire.up
        assert wire.last_error == f"{path} does not exist"


# The tests' Valkey is built without TLS, so a TLS terminator is in front of it.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def served_with(authority: Authority) -> ssl.SSLContext:
    pair = authority.issue("redis")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    return context


async def test_tls_to_a_terminator_before_valkey(
    valkey_url: str, authority: Authority, served_with: ssl.SSLContext
) -> None:
    trusting = ssl.create_default_context(cafile=authority.cert)
    large = "x" * 1_000_000
    async with (
        a_tls_terminator(served_with, port_of(valkey_url)) as port,
        a_wire(f"rediss://127.0.0.1:{port}/0", tls=trusting) as wire,
    ):
        assert wire.up
        assert (await RedisLimitStore(wire).reserve(ACME, "k1", CLAIMS)).used == (1,)
        assert await wire.execute(encode(b"ECHO", large)) == large.encode()


async def test_tls_to_a_terminator_trusts_what_SSL_CERT_FILE_names(
    valkey_url: str,
    authority: Authority,
    served_with: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert))
    async with (
        a_tls_terminator(served_with, port_of(valkey_url)) as port,
        a_wire(f"rediss://localhost:{port}/0") as wire,
    ):
        assert await wire.execute(PING) == b"PONG"


async def test_tls_to_a_terminator_with_a_certificate_of_another_authority_is_refused(
    valkey_url: str, served_with: ssl.SSLContext
) -> None:
    async with (
        a_tls_terminator(served_with, port_of(valkey_url)) as port,
        a_wire(f"rediss://127.0.0.1:{port}/0") as wire,
    ):
        assert not wire.up
        expected = f"127.0.0.1:{port}: its certificate is not valid here (unable to get"
        assert wire.last_error.startswith(expected)
        assert wire.last_error.endswith("set ssl_ca_certs in --redis")


async def test_tls_to_a_terminator_with_another_name_is_refused(
    valkey_url: str, authority: Authority, served_with: ssl.SSLContext
) -> None:
    trusting = ssl.create_default_context(cafile=authority.cert)
    async with (
        a_tls_terminator(served_with, port_of(valkey_url)) as port,
        a_wire(f"rediss://127.0.0.2:{port}/0", tls=trusting) as wire,
    ):
        assert not wire.up


async def test_tls_to_a_server_without_tls_is_reported(valkey_url: str) -> None:
    async with a_wire(valkey_url.replace("redis://", "rediss://")) as wire:
        assert not wire.up
        silent = f"127.0.0.1:{port_of(valkey_url)} does not answer in time; if the server does not"
        assert wire.last_error.startswith(silent)


async def test_plain_text_to_a_terminator_is_reported(
    valkey_url: str, served_with: ssl.SSLContext
) -> None:
    async with (
        a_tls_terminator(served_with, port_of(valkey_url)) as port,
        a_wire(f"redis://127.0.0.1:{port}/0") as wire,
    ):
        assert not wire.up
        assert str(port) in wire.last_error


async def test_a_tls_connection_that_closes_is_replaced(
    valkey_url: str, authority: Authority, served_with: ssl.SSLContext
) -> None:
    trusting = ssl.create_default_context(cafile=authority.cert)
    async with (
        a_tls_terminator(served_with, port_of(valkey_url)) as port,
        a_wire(f"rediss://127.0.0.1:{port}/0", tls=trusting) as wire,
    ):
        with redis.Redis.from_url(valkey_url) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        await until_reconnected(wire)
        assert await wire.execute(PING) == b"PONG"
