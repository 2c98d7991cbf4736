"""What a client asks for when its call cannot run now, and what is kept of the call.

RFC 7240 (Prefer), and the IETF's draft on Idempotency-Key.
"""

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import pairwise
from typing import Final

from sidecar.core.jobs import Field, JobCall, Once

RESPOND_ASYNC: Final = b"respond-async"
LONGEST_KEY: Final = 256  # bytes of an Idempotency-Key
LONGEST_PREFER: Final = 512  # bytes of one line of Prefer
_WORDS: Final = re.compile(rb"[-_]")
# Fields whose names have one of these words carry what proves who somebody is.
_CREDENTIALS: Final = frozenset(
    {b"authorization", b"authentication", b"auth", b"cookie", b"token", b"secret", b"password",
     b"passwd", b"credential", b"credentials", b"session", b"apikey", b"jwt", b"assertion"}
)  # fmt: skip


def preferences(values: Sequence[bytes]) -> tuple[bytes, ...]:
    """The names of the preferences in Prefer values, lower case (RFC 7240, section 2)."""
    return tuple(
        name
        for value in values
        for part in _members(value)
        if (name := part.partition(b";")[0].partition(b"=")[0].strip(b" \t").lower())
    )


def wants_async(values: Sequence[bytes]) -> bool:
    """Whether the client prefers `202 Accepted` to a refusal."""
    return bool(values) and RESPOND_ASYNC in preferences(values)


def _members(value: bytes) -> list[bytes]:
    """A list's members: commas inside quoted strings do not part them. What is too long to be
    read in little time is one member that nobody knows."""
    if len(value) > LONGEST_PREFER:
        return [value]
    return [part.strip(b" \t") for part in re.findall(rb'(?:"(?:\\.|[^"\\])*"|[^,])+', value)]


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
            left = [p for p in _members(value) if preferences([p]) not in _APPLIED]
            if not left:
                continue
            kept.append((name, b"Prefer: %b\r\n" % b", ".join(left)))
        elif not is_credential(name):
            kept.append((name, line))
    return tuple(kept)


_APPLIED: Final = ((RESPOND_ASYNC,), (b"wait",), ())


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
