"""Every command says the same of a Redis that it cannot use: the setting, the cause, a remedy."""

import socket
import ssl
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, InvalidResponse, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from sidecar.redis_address import redis_address
from sidecar.stores import Wire
from sidecar.stores.client import unavailable

START = "start it, or name another with --redis URL"
TLS = "if the server expects TLS, write rediss:// instead of redis://"
NO_TLS = "if the server does not use TLS, write redis:// instead of rediss://"
ENCODE = "in --redis, percent-encode special characters of user and password, such as %25 for %"
URLS = {
    "redis://127.0.0.1:1": "127.0.0.1:1 refuses connections",
    "rediss://localhost:1": "localhost:1 refuses connections",
    "redis://none.invalid:6379": "none.invalid:6379 is not a known host",
    "redis://a..b:6379": "a..b:6379 is not a known host",
    "unix:///nowhere/redis.sock": "/nowhere/redis.sock does not exist",
}


@pytest.mark.parametrize("url", URLS)
def test_each_command_says_why_redis_is_unavailable(sidecar: Any, url: str) -> None:
    wanted = [f"error: --redis (SIDECAR_REDIS): {URLS[url]}", f"try: {START}"]
    for command in (("accounts", "list"), ("jobs", "list", "--source", "/a/b")):
        done = sidecar(*command, "--redis", url)
        assert done.returncode == 1
        assert done.stderr.splitlines() == wanted


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (
            "redis+cluster://127.0.0.1:1,127.0.0.1:2",
            "127.0.0.1:1, 127.0.0.1:2: each refuses connections",
        ),
        (
            "redis+sentinel://127.0.0.1:1,127.0.0.1:2/main",
            '127.0.0.1:1, 127.0.0.1:2: no sentinel names the master "main"',
        ),
    ],
)  # fmt: skip
def test_the_nodes_of_a_cluster_and_the_sentinels_are_named(
    sidecar: Any, url: str, error: str
) -> None:
    done = sidecar("accounts", "list", "--redis", url)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: --redis (SIDECAR_REDIS): {error}", f"try: {START}"
    ]  # fmt: skip


async def test_the_log_of_a_sidecar_says_the_same() -> None:
    for url, error in URLS.items():
        wire = Wire(url, timeout_s=1.0, quiet=True)
        await wire.start()
        assert wire.last_error == error
        await wire.stop()


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


def caused(error: Exception, cause: Exception) -> Exception:
    error.__context__ = cause
    return error


@pytest.mark.parametrize(
    ("url", "error", "what", "remedy"),
    [
        ("redis://r:1", RedisTimeout("Timeout"), "r:1 does not answer in time", START),
        ("rediss://r:1", RedisTimeout("Timeout"), "r:1 does not answer in time", NO_TLS),
        ("rediss://r:1", caused(RedisConnectionError("x"), ConnectionResetError()),
         "r:1 closes the connection", NO_TLS),
        ("redis://r:1", RedisConnectionError("Connection closed by server."),
         "r:1 closes the connection", TLS),
        ("rediss://r:1", caused(RedisConnectionError("x"), tls_error("NO_CIPHERS")),
         "r:1: TLS failed (no ciphers)", START),
        ("redis://r:1", caused(RedisConnectionError("x"), socket.gaierror(-2, "x")),
         "r:1 is not a known host", START),
        ("redis://r:1", caused(RedisConnectionError("x"), OSError(113, "No route to host")),
         "r:1 cannot be reached (no route to host)", START),
        ("unix:///r.sock", caused(RedisConnectionError("x"), PermissionError(13, "x")),
         "/r.sock cannot be opened (permission denied)", START),
        ("redis://r:1", AuthenticationError("WRONGPASS invalid username-password pair"),
         "r:1: Redis refused the connection: WRONGPASS invalid username-password pair", ENCODE),
        ("redis://r:1", ResponseError("NOPERM no"), "r:1: Redis refused the command: NOPERM no",
         "give this user the rights in docs/reference/redis.md"),
        ("redis://r:1", ResponseError("WRONGTYPE a"), "r:1: Redis refused the command: WRONGTYPE a",
         "set another --redis-prefix, if other programs use this one"),
        ("redis://r:1", ResponseError("OOM b"), "r:1: Redis refused the command: OOM b",
         "read the log of Redis"),
        ("redis://r:1", InvalidResponse("H"), "r:1 does not speak the protocol of Redis", START),
        ("redis://u:secret@r:1", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
         "r:1: a value in Redis is not UTF-8", START),
    ],
)  # fmt: skip
def test_each_failure_has_one_text_and_a_remedy(
    url: str, error: Exception, what: str, remedy: str
) -> None:
    text = str(unavailable(redis_address(url), error))
    assert text.startswith(f"--redis (SIDECAR_REDIS): {what}")
    assert text.endswith(f"; {remedy}")
    assert "secret" not in text
