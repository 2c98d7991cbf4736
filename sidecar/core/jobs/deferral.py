"""Which calls may run later, and what is kept of them.

Idempotency-Key is the IETF's draft of that name; Prefer is read in `preferences.py`.
"""

import re
from collections.abc import Iterable
from hashlib import sha256
from itertools import pairwise
from typing import Final

from sidecar.core.jobs.job import Field, JobCall, Once
from sidecar.core.jobs.prefer import RESPOND_ASYNC, members, name_of
from sidecar.core.model import Entitlement, RequestClass
from sidecar.core.reasons import Decision, Reason

LONGEST_KEY: Final = 256  # bytes of an Idempotency-Key
_LIMITS: Final = (Reason.RATE, Reason.QUOTA, Reason.CONCURRENCY)
_WORDS: Final = re.compile(rb"[-_]")
# Fields whose names have one of these words carry what proves who somebody is.
_CREDENTIALS: Final = frozenset(
    {b"authorization", b"authentication", b"auth", b"cookie", b"token", b"secret", b"password",
     b"passwd", b"credential", b"credentials", b"session", b"apikey", b"jwt", b"assertion"}
)  # fmt: skip


def may_run_later(found: Entitlement, *, asked: bool) -> bool:
    """Whether a call of this route may become a job; `asked`: its client wants it to."""
    request_class = found.route.request_class
    return request_class is RequestClass.DEFERRABLE or (
        asked and request_class is not RequestClass.CRITICAL
    )


def fits_later(decision: Decision) -> bool:
    """Whether limits refuse the call now, and will not for ever."""
    return decision.reason in _LIMITS and decision.retry_us is not None


def is_credential(name: bytes) -> bool:
    """Whether a field (its lower-case name) may carry a credential: it is never stored."""
    words = _WORDS.split(name)
    pairs = {b"".join(pair) for pair in pairwise(words)}
    return not _CREDENTIALS.isdisjoint({*words, *pairs})


def kept_fields(fields: Iterable[Field]) -> tuple[Field, ...]:
    """The fields of a call that are stored with its job: no credential, and of Prefer only what
    the API may still want to hear."""
    kept = []
    for name, line in fields:
        if name == b"prefer":
            value = line.partition(b":")[2].strip(b" \t\r\n")
            left = [one for one in members(value) if name_of(one) not in _APPLIED]
            if not left:
                continue
            kept.append((name, b"Prefer: %b\r\n" % b", ".join(left)))
        elif not is_credential(name):
            kept.append((name, line))
    return tuple(kept)


_APPLIED: Final = (RESPOND_ASYNC, b"wait", b"")


def with_own_key(fields: tuple[Field, ...], job_id: str) -> tuple[Field, ...]:
    """The fields that the API gets: with an Idempotency-Key, the client's or else the job's id, so
    that it can tell a job that runs again."""
    if any(name == b"idempotency-key" for name, _ in fields):
        return fields
    return (*fields, (b"idempotency-key", b'Idempotency-Key: "%b"\r\n' % job_id.encode()))


def once_name(key_id: str, value: bytes) -> str:
    """How an Idempotency-Key is remembered: it is for one key of the account. A digest."""
    return sha256(key_id.encode() + b"\0" + value).hexdigest()


def once_of(key_id: str, value: bytes, call: JobCall) -> Once:
    """An Idempotency-Key with what it was sent for: method, target, type and body."""
    told = sha256()
    for part in (call.method.encode(), call.target, call.content_type, call.body):
        told.update(b"%d:" % len(part))
        told.update(part)
    return Once(once_name(key_id, value), told.hexdigest())
