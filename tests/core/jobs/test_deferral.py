"""The fields that a job stores, and Idempotency-Key."""

import pytest

from sidecar.core.jobs.deferral import (
    idempotency_key,
    is_credential,
    stored_fields,
    with_idempotency_key,
)
from sidecar.core.jobs.job import JobRequest

REQUEST = JobRequest("POST", b"/x", b"a", "10.0.0.1", (), b"body", b"text/plain")


@pytest.mark.parametrize(
    "name",
    [b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key",
     b"x_api_key", b"apikey", b"x-auth-token", b"x-amz-security-token", b"x-csrf-token",
     b"client-secret", b"x-session-id", b"x-user-password"],
)  # fmt: skip
def test_a_credential_is_recognised_by_its_name_and_not_stored(name: bytes) -> None:
    assert is_credential(name)
    assert stored_fields([(name, name + b": 1\r\n")]) == ()


@pytest.mark.parametrize(
    "name", [b"accept", b"idempotency-key", b"x-author", b"user-agent", b"x-key-size", b"etag"]
)
def test_other_fields_are_stored(name: bytes) -> None:
    field = (name, name.title() + b": some value\r\n")
    assert stored_fields([field]) == (field,)


def test_preferences_that_the_sidecar_applies_are_not_stored() -> None:
    def stored(value: bytes) -> tuple[bytes, ...]:
        return tuple(line for _, line in stored_fields([(b"prefer", b"prefer: %b\r\n" % value)]))

    assert stored(b"respond-async, wait=10") == ()
    assert stored(b'respond-async, return=minimal; x="a, b"') == (
        b'Prefer: return=minimal; x="a, b"\r\n',
    )


def test_a_job_sends_the_clients_idempotency_key_or_else_its_id() -> None:
    own = ((b"idempotency-key", b"Idempotency-Key: mine\r\n"),)
    assert with_idempotency_key(own, "0199") == own
    assert with_idempotency_key((), "0199") == (
        (b"idempotency-key", b'Idempotency-Key: "0199"\r\n'),
    )


def test_an_idempotency_key_belongs_to_one_api_key_and_one_request() -> None:
    one = idempotency_key("k1", b"order-1", REQUEST)
    assert idempotency_key("k1", b"order-1", REQUEST) == one
    assert idempotency_key("k2", b"order-1", REQUEST).digest != one.digest
    assert idempotency_key("k1", b"order-2", REQUEST).digest != one.digest
    others = [
        JobRequest("PUT", b"/x", b"a", "10.0.0.1", (), b"body", b"text/plain"),
        JobRequest("POST", b"/y", b"a", "10.0.0.1", (), b"body", b"text/plain"),
        JobRequest("POST", b"/x", b"a", "10.0.0.1", (), b"bodz", b"text/plain"),
        JobRequest("POST", b"/xb", b"a", "10.0.0.1", (), b"ody", b"text/plain"),
    ]
    for other in others:
        changed = idempotency_key("k1", b"order-1", other)
        assert changed.digest == one.digest
        assert changed.request_digest != one.request_digest
    assert b"order-1" not in repr(one).encode()
