"""Counting without a decision: requests allowed without Redis, and counters that Redis lost. Pure.

As in `account.py`, each operation is one Lua script.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from sidecar.core import limits
from sidecar.core.account import AccountState, with_limits
from sidecar.core.answers import Answer
from sidecar.core.survey import BoundClaim, ClaimedLimit, answer_of, survey_limits


class JournalEntries(NamedTuple):
    """Entries `first` to `last` of a journal, added up: requests allowed without Redis."""

    journal: str
    first: int
    last: int


def charge(
    account: AccountState,
    claims: Sequence[BoundClaim],
    since_us: Sequence[int],
    entries: JournalEntries,
    now_us: int,
) -> tuple[int, Answer, AccountState]:
    """Charge journal entries, at most once.

    Status 1: charged. 0: they were charged before. -2: some of them were, so the sum has to be
    computed again without these. With 0 and -2 nothing changes.

    Claims are on quotas, and forced. Each is of the period that begins at its `since_us`; a period
    that is over is left alone. No threshold is reported: the next decision reports it.
    """
    surveyed = survey_limits(account.states, account.grants, claims, now_us)
    mark = account.charged.get(entries.journal, 0)
    if mark >= entries.first:
        status = 0 if mark >= entries.last else -2
        return status, answer_of(surveyed, now_us, granted=False), account
    after, burned = [], []
    for one, since in zip(surveyed, since_us, strict=True):
        counted, units = (one, 0) if one.state.since_us > since else _added(one)
        after.append(counted)
        burned.append(units)
    marks = {**account.charged, entries.journal: entries.last}
    answer = answer_of(after, now_us, granted=True, burned=burned)
    return 1, answer, replace(with_limits(account, after), charged=marks)


def _added(one: ClaimedLimit) -> tuple[ClaimedLimit, int]:
    claim = one.bound.claim
    state, live, burned = limits.add(claim.limit, one.state, one.grants, claim.cost)
    return one._replace(state=state, grants=live), burned


class CounterReading(NamedTuple):
    """A quota's counter when it was read, in the period that began at `since_us`."""

    used: int
    since_us: int


def rebuild(
    account: AccountState,
    claims: Sequence[BoundClaim],
    read: Sequence[CounterReading],
    rebuilt: int,
    now_us: int,
) -> tuple[Answer, AccountState]:
    """Add units that quotas lost, or take back units that they have too many.

    A claim's cost is the difference, and may be negative. `granted` is False, and nothing changes,
    if another rebuild or a loss has changed the account since it was read. Units that were counted
    since then stay counted, unless units are to be taken back. No threshold is reported: the next
    decision reports it.
    """
    surveyed = survey_limits(account.states, account.grants, claims, now_us)
    same = all(_as_read(one, before) for one, before in zip(surveyed, read, strict=True))
    if account.rebuilt != rebuilt or not same:
        return answer_of(surveyed, now_us, granted=False), account
    after, burned = [], []
    for one in surveyed:
        changed, units = _added(one)
        after.append(changed)
        burned.append(units)
    answer = answer_of(after, now_us, granted=True, burned=burned)
    return answer, replace(with_limits(account, after), rebuilt=max(now_us, rebuilt + 1))


def _as_read(one: ClaimedLimit, read: CounterReading) -> bool:
    state = one.state
    more = state.used > read.used and one.bound.claim.cost >= 0
    return state.since_us == read.since_us and (state.used == read.used or more)
