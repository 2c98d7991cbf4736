"""Requests that may become jobs, and what makes two requests the same job.

Idempotency-Key follows draft-ietf-httpapi-idempotency-key-header.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from sidecar.core.jobs.job import Field, IdempotencyKey, JobRequest
from sidecar.core.model import Entitlement, RequestClass
from sidecar.core.reasons import Decision, Reason

MAX_KEY_BYTES: Final = 256  # of an Idempotency-Key
_LIMITS: Final = (Reason.RATE, Reason.QUOTA, Reason.CONCURRENCY)


def may_run_later(entitlement: Entitlement, *, asked: bool) -> bool:
    """Whether a request of this route may become a job; `asked`: the client prefers it."""
    request_class = entitlement.route.request_class
    return request_class is RequestClass.DEFERRABLE or (
        asked and request_class is not RequestClass.CRITICAL
    )


def fits_later(decision: Decision) -> bool:
    """Whether limits refuse the request now and will allow it later."""
    return decision.reason in _LIMITS and decision.retry_us is not None


def key_problem(values: Sequence[bytes]) -> str:
    """Return what is wrong with the Idempotency-Key fields of a request; "" if nothing is.

    A request with an invalid key must not become a job: sent again, it would become a second one.
    """
    if len(values) > 1:
        return "The request has more than one Idempotency-Key."
    if values and not values[0]:
        return "The Idempotency-Key is empty."
    if values and len(values[0]) > MAX_KEY_BYTES:
        return f"The Idempotency-Key is longer than {MAX_KEY_BYTES} bytes."
    return ""


def with_idempotency_key(fields: tuple[Field, ...], job_id: str) -> tuple[Field, ...]:
    """Return the fields with an Idempotency-Key: the client's, or else the job's ID.

    The API recognises by it a job that runs again.
    """
    if any(name == b"idempotency-key" for name, _ in fields):
        return fields
    return (*fields, (b"idempotency-key", b'Idempotency-Key: "%b"\r\n' % job_id.encode()))


def idempotency_digest(key_id: str, value: bytes) -> str:
    """Return the digest of an Idempotency-Key, which is valid for one API key of the account."""
    return sha256(key_id.encode() + b"\0" + value).hexdigest()


def idempotency_key(key_id: str, value: bytes, request: JobRequest) -> IdempotencyKey:
    """Return both digests; that of the request covers method, target, content type and body."""
    digest = sha256()
    for part in (request.method.encode(), request.target, request.content_type, request.body):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return IdempotencyKey(idempotency_digest(key_id, value), digest.hexdigest())
