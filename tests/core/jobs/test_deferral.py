"""Idempotency-Key: valid ones, and the requests that they belong to."""

import pytest

from sidecar.core.jobs.deferral import (
    MAX_KEY_BYTES,
    idempotency_key,
    key_problem,
    with_idempotency_key,
)
from sidecar.core.jobs.job import JobRequest

REQUEST = JobRequest("POST", b"/x", b"a", "10.0.0.1", (), b"body", b"text/plain")


def test_a_job_sends_the_clients_idempotency_key_or_else_its_id() -> None:
    own = ((b"idempotency-key", b"Idempotency-Key: mine\r\n"),)
    assert with_idempotency_key(own, "0199") == own
    assert with_idempotency_key((), "0199") == (
        (b"idempotency-key", b'Idempotency-Key: "0199"\r\n'),
    )


@pytest.mark.parametrize(
    ("values", "problem"),
    [((), ""), ((b"a",), ""), ((b"k" * MAX_KEY_BYTES,), ""), ((b'"order-1"',), ""),
     ((b"a", b"b"), "more than one"), ((b"a", b"a"), "more than one"), ((b"",), "empty"),
     ((b"k" * (MAX_KEY_BYTES + 1),), "longer than 256 bytes")],
)  # fmt: skip
def test_a_request_has_one_idempotency_key_of_bounded_length(
    values: tuple[bytes, ...], problem: str
) -> None:
    assert bool(key_problem(values)) == bool(problem)
    assert problem in key_problem(values)


def test_an_idempotency_key_belongs_to_one_api_key_and_one_request() -> None:
    one = idempotency_key("k1", b"order-1", REQUEST)
    assert idempotency_key("k1", b"order-1", REQUEST) == one
    assert idempotency_key("k2", b"order-1", REQUEST).digest != one.digest
    assert idempotency_key("k1", b"order-2", REQUEST).digest != one.digest
    others = [
        JobRequest("PUT", b"/x", b"a", "10.0.0.1", (), b"body", b"text/plain"),
        JobRequest("POST", b"/y", b"a", "10.0.0.1", (), b"body", b"text/plain"),
        JobRequest("POST", b"/x", b"a", "10.0.0.1", (), b"bodz", b"text/plain"),
        JobRequest("POST", b"/xt", b"a", "10.0.0.1", (), b"body", b"ext/plain"),
        JobRequest("POST", b"/x", b"a", "10.0.0.1", (), b"ody", b"text/plainb"),
    ]
    for other in others:
        changed = idempotency_key("k1", b"order-1", other)
        assert changed.digest == one.digest
        assert changed.request_digest != one.request_digest
    assert b"order-1" not in repr(one).encode()
