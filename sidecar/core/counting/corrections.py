"""Counting without a decision: requests allowed without Redis, and counters that Redis lost. Pure.

As in `account.py`, each operation is one Lua script.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from sidecar.core.answers import Answer
from sidecar.core.counting import limits
from sidecar.core.counting.account import with_limits
from sidecar.core.counting.counters import Change, changed_suspended, of_one_meter, with_change
from sidecar.core.counting.reservations import NOT_ENDED, AccountState
from sidecar.core.counting.survey import BoundClaim, ClaimedLimit, answer_of, survey_limits
from sidecar.core.kinds import QuotaLimit

NOT_KNOWN: Final = -1


class JournalEntries(NamedTuple):
    """Entries `first` to `last` of a journal, added up: requests allowed without Redis.

    `reported`: for each claim, the overage that their events have reported; NOT_ENDED for requests
    without an event.
    """

    journal: str
    first: int
    last: int
    reported: tuple[int, ...]


def charge(
    account: AccountState,
    claims: Sequence[BoundClaim],
    until_us: Sequence[int],
    entries: JournalEntries,
    now_us: int,
) -> tuple[int, Answer, AccountState]:
    """Charge journal entries, at most once.

    Status 1: charged. 0: they were charged before. -2: some of them were, so the sum has to be
    computed again without these. With 0 and -2 nothing changes.

    Claims are on quotas, and forced. `until_us` is the instant of the last request of each; a
    counter of a period that started later is left alone. No threshold is reported: the next
    decision reports it.
    """
    surveyed = survey_limits(account.states, account.grants, claims, now_us)
    mark = account.charged.get(entries.journal, 0)
    if mark >= entries.first:
        status = 0 if mark >= entries.last else -2
        return status, answer_of(surveyed, now_us, granted=False), account
    after = [
        _charged(one, until, reported)
        for one, until, reported in zip(surveyed, until_us, entries.reported, strict=True)
    ]
    marks = {**account.charged, entries.journal: entries.last}
    answer = answer_of(after, now_us, granted=True)
    return 1, answer, replace(with_limits(account, after), charged=marks)


def _charged(one: ClaimedLimit, until_us: int, reported: int) -> ClaimedLimit:
    """Return the limit with the requests of one period, which are over."""
    claim, state, ended = one.bound.claim, one.state, reported != NOT_ENDED
    limit, counts = claim.limit, ended and isinstance(claim.limit, QuotaLimit)
    starts = {one.since_us for one in of_one_meter(state) if one.since_us <= until_us}
    if state.since_us > until_us:
        if counts and 1 < state.closed_us <= until_us:
            state = limits.count_closed(state, claim.cost)
            state = replace(state, due=state.due - reported)
        spent = 0 if isinstance(limit, QuotaLimit) else claim.cost
        change = Change(claim.cost, claim.cost if counts else 0, spent)
        suspended = changed_suspended(state, change, starts)
        return one._replace(state=replace(state, suspended=suspended))
    state, live, burned = limits.add(limit, state, one.grants, claim.cost)
    if counts and isinstance(limit, QuotaLimit):
        state = limits.count(limit, state, claim.cost, burned)
        state = replace(state, due=state.due - reported)
    elif isinstance(limit, QuotaLimit):
        state = replace(state, settled=state.settled - burned)
    state = with_change(limit, one.state, state, starts)
    return one._replace(state=state, grants=live, burned=burned)


class CounterReading(NamedTuple):
    """A quota's counter when it was read, in the period that began at `since_us`.

    `reported`: the overage that the events have reported of the units that are missing. NOT_KNOWN:
    as much as these units are beyond plan and grants.
    """

    used: int
    since_us: int
    reported: int = NOT_KNOWN


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
    decision reports it. Overage that no event has reported is due: the next event reports it.
    """
    surveyed = survey_limits(account.states, account.grants, claims, now_us)
    same = all(_as_read(one, before) for one, before in zip(surveyed, read, strict=True))
    if account.rebuilt != rebuilt or not same:
        return answer_of(surveyed, now_us, granted=False), account
    after = [_rebuilt(one, before.reported) for one, before in zip(surveyed, read, strict=True)]
    answer = answer_of(after, now_us, granted=True)
    return answer, replace(with_limits(account, after), rebuilt=max(now_us, rebuilt + 1))


def _as_read(one: ClaimedLimit, read: CounterReading) -> bool:
    state = one.state
    more = state.used > read.used and one.bound.claim.cost >= 0
    return state.since_us == read.since_us and (state.used == read.used or more)


def _rebuilt(one: ClaimedLimit, reported: int) -> ClaimedLimit:
    claim, limit, state = one.bound.claim, one.bound.claim.limit, one.state
    units = claim.cost
    if isinstance(limit, QuotaLimit) and units >= 0 and reported != NOT_KNOWN:
        state = limits.add_reported(state, min(reported, units), reported)
        units -= min(reported, units)
    state, live, burned = limits.add(limit, state, one.grants, units)
    if isinstance(limit, QuotaLimit) and claim.cost >= 0:
        due = state.due
        state = limits.count(limit, state, units, burned)
        state = replace(state, due=due) if reported == NOT_KNOWN else state
    elif isinstance(limit, QuotaLimit):  # what was too much had no event
        state = replace(state, settled=min(state.settled - burned, state.used - state.over))
    return one._replace(state=state, grants=live, burned=burned)
