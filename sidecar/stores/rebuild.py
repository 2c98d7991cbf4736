"""Changes an account's counters to the sums of its usage events, with one script."""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from sidecar.core.counting.corrections import NOT_KNOWN
from sidecar.core.counting.counts import counts_of
from sidecar.core.kinds import PeriodLimit, QuotaLimit
from sidecar.core.model import Account, Claim
from sidecar.core.periods import window_at
from sidecar.stores import keys
from sidecar.stores.commands import ttl_ms
from sidecar.stores.scripts import ClaimArguments, ClaimNumbers, load

CHANGED_AT_ONCE: Final = 200  # counters per run of the script


class Change(NamedTuple):
    """`units` to add to a counter (below 0: subtract).

    The counter was read as `used`, in the period that starts at `since_us`. `key_id`: of a limit
    per key. `reported`: as for `CounterReading`.
    """

    limit: PeriodLimit
    key_id: str | None
    units: int
    used: int
    since_us: int
    reported: int = NOT_KNOWN


class RebuildResult(NamedTuple):
    """`done`: False if the account had changed since it was read.

    `rebuilt`: the account's field of this name, for the next change.
    """

    done: bool
    rebuilt: str


def rebuild(
    client: Any, prefix: str, account: Account, changes: Sequence[Change], rebuilt: str, now_us: int
) -> RebuildResult:
    """Change an account's counters, unless they have changed since they were read.

    `rebuilt`: the account's field as it was read. `now_us`: a recent Redis time. More than
    `CHANGED_AT_ONCE` changes are made in steps; a failed step does not undo the ones before.
    """
    key = keys.state(prefix, account.id)
    for at in range(0, len(changes), CHANGED_AT_ONCE):
        sent = arguments(account, changes[at : at + CHANGED_AT_ONCE], rebuilt, now_us)
        status, now_us, *_ = client.eval(load("limits/rebuild").text, 1, key, *sent)
        if status != 1:
            return RebuildResult(False, rebuilt)
        rebuilt = str(max(now_us, int(rebuilt) + 1))
    return RebuildResult(True, rebuilt)


def arguments(
    account: Account, changes: Sequence[Change], rebuilt: str, now_us: int
) -> list[bytes | str | int]:
    """ARGV of `lua/limits/rebuild.lua`."""
    claims = [Claim(change.limit, change.units, forced=True) for change in changes]
    sent: list[bytes | str | int] = [ttl_ms(claims), len(changes)]
    for change in changes:
        sent += _group(account, change, now_us)
    read = (number for one in changes for number in (one.used, one.since_us, one.reported))
    return [*sent, rebuilt, struct.pack(f"<{3 * len(changes)}d", *read)]


def _group(account: Account, change: Change, now_us: int) -> Iterator[bytes | str | int]:
    limit = change.limit
    rollover = limit.rollover if isinstance(limit, QuotaLimit) else 0
    window = window_at(limit, account, now_us)
    counts = counts_of(limit)
    numbers = ClaimNumbers(change.units, limit.full, *window, limit.units, rollover, counts)
    field = keys.limit_field(limit, change.key_id or "")
    yield from ClaimArguments("quota", field, 1, numbers.packed())
