"""Requests that may become jobs, and the part of a request that a job stores.

Idempotency-Key follows draft-ietf-httpapi-idempotency-key-header.
"""

import re
from collections.abc import Iterable
from hashlib import sha256
from itertools import pairwise
from typing import Final

from sidecar.core.jobs.job import Field, IdempotencyKey, JobRequest
from sidecar.core.jobs.prefer import RESPOND_ASYNC, preference_name, preferences
from sidecar.core.model import Entitlement, RequestClass
from sidecar.core.reasons import Decision, Reason

MAX_KEY_BYTES: Final = 256  # of an Idempotency-Key
_LIMITS: Final = (Reason.RATE, Reason.QUOTA, Reason.CONCURRENCY)
_APPLIED: Final = (RESPOND_ASYNC, b"wait", b"")  # preferences that the sidecar applies itself
_SEPARATOR: Final = re.compile(rb"[-_]")
# A field whose name contains one of these words may carry a credential.
_CREDENTIALS: Final = frozenset(
    {b"authorization", b"authentication", b"auth", b"cookie", b"token", b"secret", b"password",
     b"passwd", b"credential", b"credentials", b"session", b"apikey", b"jwt", b"assertion"}
)  # fmt: skip


def may_run_later(entitlement: Entitlement, *, asked: bool) -> bool:
    """Whether a request of this route may become a job; `asked`: the client prefers it."""
    request_class = entitlement.route.request_class
    return request_class is RequestClass.DEFERRABLE or (
        asked and request_class is not RequestClass.CRITICAL
    )


def fits_later(decision: Decision) -> bool:
    """Whether limits refuse the request now and will allow it later."""
    return decision.reason in _LIMITS and decision.retry_us is not None


def is_credential(name: bytes) -> bool:
    """Whether a field with this lower-case name may carry a credential and must not be stored."""
    words = _SEPARATOR.split(name)
    pairs = {b"".join(pair) for pair in pairwise(words)}
    return not _CREDENTIALS.isdisjoint({*words, *pairs})


def stored_fields(fields: Iterable[Field]) -> tuple[Field, ...]:
    """Return the fields that a job stores.

    Credentials are left out, and so are the preferences that the sidecar has applied.
    """
    stored = []
    for name, line in fields:
        if name == b"prefer":
            value = line.partition(b":")[2].strip(b" \t\r\n")
            rest = [one for one in preferences(value) if preference_name(one) not in _APPLIED]
            if rest:
                stored.append((name, b"Prefer: %b\r\n" % b", ".join(rest)))
        elif not is_credential(name):
            stored.append((name, line))
    return tuple(stored)


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
