"""RateLimit header fields: draft-ietf-httpapi-ratelimit-headers-11, and the older X- names.

The draft may still change: only this file depends on it. Both fields are lists of structured-field
strings with integer parameters (RFC 9651).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit, RateLimit
from sidecar.core.periods import usual_s
from sidecar.core.reasons import LimitStatus

_LARGEST: Final = 999_999_999_999_999  # of a structured-field integer (RFC 9651, section 3.3.1)


@lru_cache(maxsize=1024)
def _string(text: str) -> bytes:
    """Return a structured-field string (RFC 9651, section 3.3.3). Raises ValueError."""
    if not text.isascii() or not text.isprintable():
        raise ValueError(f"{text!r} has characters that a header field cannot carry")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'.encode()


def policy_field(limits: Sequence[Limit], guard: RateLimit | None = None) -> bytes:
    """Return the value of RateLimit-Policy, b"" without limits to report.

    `q` units per `w` seconds. Windows are whole seconds, so a rate per 100 ms is reported as ten
    times as many per second; months count as 30 days. Concurrency has no window, but a quota unit.
    The `guard`, which is not sold, and limits in shadow are left out.
    """
    return b", ".join(_policy(limit) for limit in limits if limit is not guard and not limit.shadow)


def _policy(limit: Limit) -> bytes:
    if isinstance(limit, ConcurrencyLimit):
        return b'%b;q=%d;qu="concurrent-requests"' % (_string(limit.id), limit.slots)
    if isinstance(limit, RateLimit):
        window = -(-limit.window_us // MICRO)
        quota = limit.units * window * MICRO // limit.window_us
    else:
        window, quota = usual_s(limit.period), limit.units
    return b"%b;q=%d;w=%d" % (_string(limit.id), min(quota, _LARGEST), window)


def ratelimit_field(status: LimitStatus, now_us: int) -> bytes:
    """Return the value of RateLimit for one limit: `r` units left, more of them in `t` seconds.

    `t` is rounded up, and left out if nothing is missing.
    """
    left = status.remaining
    if left > _LARGEST:
        left = _LARGEST
    reset = status.reset_us
    if reset is None:
        return b"%b;r=%d" % (_string(status.claim.limit.id), left)
    wait = reset - now_us
    seconds = -(-wait // MICRO) if wait > 0 else 0
    return b"%b;r=%d;t=%d" % (_string(status.claim.limit.id), left, seconds)


def legacy_fields(status: LimitStatus, now_us: int) -> tuple[tuple[bytes, bytes], ...]:
    """Return the X-RateLimit-* fields of one limit.

    Reset is in seconds since the epoch, as in GitHub's API and most others.
    """
    reset_us = now_us if status.reset_us is None else status.reset_us
    return (
        (b"X-RateLimit-Limit", b"%d" % status.limit_units),
        (b"X-RateLimit-Remaining", b"%d" % status.remaining),
        (b"X-RateLimit-Reset", b"%d" % -(-reset_us // MICRO)),
    )
