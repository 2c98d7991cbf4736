"""Counters are changed to what the events say: one script call for all of an account."""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from sidecar.core.model import Account, Claim, QuotaLimit
from sidecar.core.periods import window_at
from sidecar.stores import keys
from sidecar.stores.commands import ttl_ms
from sidecar.stores.scripts import ClaimArguments, ClaimNumbers, load

AT_ONCE: Final = 200  # counters in one call


class Change(NamedTuple):
    """`units` to be added to a counter (below 0: taken back) that was read as `used` in the period
    since `since_us`. `key_id` is of a limit per key."""

    limit: QuotaLimit
    key_id: str | None
    units: int
    used: int
    since_us: int


class RebuildResult(NamedTuple):
    """`done` is False when the account had changed since it was read. `rebuilt` is what the next
    change has to have read."""

    done: bool
    rebuilt: str


def rebuild(
    client: Any, prefix: str, account: Account, changes: Sequence[Change], rebuilt: str, now_us: int
) -> RebuildResult:
    """Change an account's counters if they are still those that were read.

    `rebuilt`: as the account's state had it; `now_us`: Redis time of a moment ago. Changes
    beyond AT_ONCE are made in several steps: when one fails, those before it are made.
    """
    key = keys.state(prefix, account.id)
    for at in range(0, len(changes), AT_ONCE):
        sent = arguments(account, changes[at : at + AT_ONCE], rebuilt, now_us)
        status, now_us, *_ = client.eval(load("limits/rebuild").text, 1, key, *sent)
        if status != 1:
            return RebuildResult(False, rebuilt)
        rebuilt = str(max(now_us, int(rebuilt) + 1))
    return RebuildResult(True, rebuilt)


def arguments(
    account: Account, changes: Sequence[Change], rebuilt: str, now_us: int
) -> list[bytes | str | int]:
    """ARGV of the script."""
    claims = [Claim(change.limit, change.units, forced=True) for change in changes]
    sent: list[bytes | str | int] = [ttl_ms(claims), len(changes)]
    for change in changes:
        sent += _group(account, change, now_us)
    seen = (number for one in changes for number in (one.used, one.since_us))
    return [*sent, rebuilt, struct.pack(f"<{2 * len(changes)}d", *seen)]


def _group(account: Account, change: Change, now_us: int) -> Iterator[bytes | str | int]:
    limit = change.limit
    numbers = ClaimNumbers(
        change.units, limit.cap, *window_at(limit, account, now_us), limit.units, limit.rollover
    )
    field = keys.limit_field(limit, change.key_id or "")
    yield from ClaimArguments("quota", field, 1, numbers.packed())
