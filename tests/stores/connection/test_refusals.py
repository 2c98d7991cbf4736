"""What is said about a Redis that does not let the sidecar in: TLS, certificates, passwords."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
import redis

from sidecar.errors import SettingsError
from sidecar.pem import pem_problem
from sidecar.redis_address import redis_address
from sidecar.stores import Wire
from sidecar.stores.connection.tls import tls_context


async def refusal(url: str) -> str:
    wire = Wire(url, timeout_s=1.0, quiet=True)
    await wire.start()
    error = wire.last_error
    await wire.stop()
    return error


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


async def test_tls_to_a_server_without_it(valkey_url: str) -> None:
    error = await refusal(valkey_url.replace("redis://", "rediss://"))
    assert error.endswith("if the server does not use TLS, write redis:// instead of rediss://")


async def test_no_tls_to_a_server_with_it(pair: tuple[Path, Path]) -> None:
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*pair)

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    error = await refusal(f"redis://127.0.0.1:{port}/0")
    assert error.endswith("if the server expects TLS, write rediss:// instead of redis://")
    untrusted = await refusal(f"rediss://127.0.0.1:{port}/0")
    assert "its certificate is not valid here (" in untrusted
    assert untrusted.endswith("set ssl_ca_certs in --redis")
    server.close()


async def test_a_wrong_password_hints_at_percent_encoding(valkey_url: str) -> None:
    client = redis.Redis.from_url(valkey_url)
    client.execute_command("ACL", "SETUSER", "ann", "on", ">p%41ss", "~*", "+@all")
    try:
        at = valkey_url.partition("://")[2]
        error = await refusal(f"redis://ann:p%41ss@{at}")  # read as pAss
        assert "WRONGPASS" in error
        assert error.endswith("percent-encode special characters of user and password, such as "
                              "%25 for %")  # fmt: skip
        assert "p%41ss" not in error
        assert await refusal(f"redis://ann:p%2541ss@{at}") == ""
    finally:
        client.execute_command("ACL", "DELUSER", "ann")
        client.close()


@pytest.mark.parametrize("secret", ["pa/ss", "pa#ss", "pa?ss", "12/34", "#", "a/b@c", "a/b?c#d%"])
@pytest.mark.parametrize("kind", ["redis", "rediss", "redis+sentinel", "redis+cluster"])
def test_special_characters_of_a_password_are_named(kind: str, secret: str) -> None:
    with pytest.raises(ValueError, match="percent-encode it: %2F for /") as error:
        redis_address(f"{kind}://user:{secret}@redis.test:6379/0")
    assert secret == "#" or secret not in str(error.value).partition(":")[0]


def test_an_at_sign_in_a_password_needs_no_encoding() -> None:
    assert redis_address("redis://user:p@ss@redis.test:6379").password == "p@ss"


def test_junk_certificates_are_described(pair: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = pair
    junk, damaged = tmp_path / "junk.pem", tmp_path / "damaged.pem"
    junk.write_bytes(os.urandom(100))
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    encrypted = tmp_path / "encrypted.key"
    subprocess.run(
        ["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:word", "-out", encrypted],
        check=True, capture_output=True,
    )  # fmt: skip
    assert pem_problem((cert,), (key,)) == ""
    assert pem_problem((junk,)).startswith(f"{junk} is not in PEM format, not a certificate")
    assert pem_problem((key,)).startswith(f"{key} has a private key, not a certificate")
    assert pem_problem((damaged,)) == f"{damaged} has a damaged certificate"
    assert pem_problem((cert,), (cert,)).startswith(f"{cert} has a certificate, not a private key")
    assert "is encrypted" in pem_problem((), (encrypted,))
    assert "no such file" in pem_problem((tmp_path / "none",))
    with pytest.raises(SettingsError, match="is not in PEM format") as error:
        tls_context(redis_address(f"rediss://redis.test?ssl_ca_certs={junk}"))
    assert str(error.value).startswith(f"--redis: invalid TLS files: {junk}")
