"""Prefer, Idempotency-Key, and what of a call may be kept."""

import pytest

from sidecar.core.jobs.deferral import (
    is_credential,
    kept_fields,
    once_of,
    with_own_key,
)
from sidecar.core.jobs.job import JobCall

CALL = JobCall("POST", b"/x", b"a", "10.0.0.1", (), b"body", b"text/plain")


@pytest.mark.parametrize(
    "name",
    [b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key",
     b"x_api_key", b"apikey", b"x-auth-token", b"x-amz-security-token", b"x-csrf-token",
     b"client-secret", b"x-session-id", b"x-user-password"],
)  # fmt: skip
def test_what_proves_who_somebody_is_is_known_by_its_name(name: bytes) -> None:
    assert is_credential(name)
    assert kept_fields([(name, name + b": 1\r\n")]) == ()


@pytest.mark.parametrize(
    "name", [b"accept", b"idempotency-key", b"x-author", b"user-agent", b"x-key-size", b"etag"]
)
def test_other_fields_are_kept(name: bytes) -> None:
    field = (name, name.title() + b": some value\r\n")
    assert kept_fields([field]) == (field,)


def test_of_prefer_the_api_hears_what_was_not_done_here() -> None:
    def left(value: bytes) -> tuple[bytes, ...]:
        return tuple(line for _, line in kept_fields([(b"prefer", b"prefer: %b\r\n" % value)]))

    assert left(b"respond-async, wait=10") == ()
    assert left(b'respond-async, return=minimal; x="a, b"') == (
        b'Prefer: return=minimal; x="a, b"\r\n',
    )


def test_an_idempotency_key_is_the_clients_or_else_the_jobs() -> None:
    own = ((b"idempotency-key", b"Idempotency-Key: mine\r\n"),)
    assert with_own_key(own, "0199") == own
    assert with_own_key((), "0199") == ((b"idempotency-key", b'Idempotency-Key: "0199"\r\n'),)


def test_an_idempotency_key_is_remembered_for_one_key_and_one_call() -> None:
    one = once_of("k1", b"order-1", CALL)
    assert once_of("k1", b"order-1", CALL) == one
    assert once_of("k2", b"order-1", CALL).name != one.name
    assert once_of("k1", b"order-2", CALL).name != one.name
    others = [
        JobCall("PUT", b"/x", b"a", "10.0.0.1", (), b"body", b"text/plain"),
        JobCall("POST", b"/y", b"a", "10.0.0.1", (), b"body", b"text/plain"),
        JobCall("POST", b"/x", b"a", "10.0.0.1", (), b"bodz", b"text/plain"),
        JobCall("POST", b"/xb", b"a", "10.0.0.1", (), b"ody", b"text/plain"),
    ]
    for other in others:
        changed = once_of("k1", b"order-1", other)
        assert changed.name == one.name
        assert changed.print != one.print
    assert b"order-1" not in repr(one).encode()
