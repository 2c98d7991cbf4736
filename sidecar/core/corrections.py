"""What is counted after the fact: calls that passed without Redis, and counters that it lost. Pure.

Operations on a `AccountState` as the others are, each one a Lua script; nothing is decided here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from sidecar.core import limits
from sidecar.core.account import AccountState, kept
from sidecar.core.answers import Answer
from sidecar.core.model import QuotaLimit
from sidecar.core.survey import Ask, ClaimedLimit, answer_of, see_all


class Entries(NamedTuple):
    """What a sidecar let pass without asking: entries `first` to `last` of a journal, added up."""

    journal: str
    first: int
    last: int


def charge(
    ledger: AccountState,
    asks: Sequence[Ask],
    since_us: Sequence[int],
    entries: Entries,
    now_us: int,
) -> tuple[int, Answer, AccountState]:
    """Count them, once: 1. 0: they were counted before; -2: a part of them was, so that the sum
    has to be made anew without it. What did not count changes nothing.

    Claims are on quotas, forced, each of the period that begins at its `since_us`: one that is
    over is left alone. No threshold is told: the next call that is asked for tells it.
    """
    seen = see_all(ledger.states, ledger.grants, asks, now_us)
    mark = ledger.charged.get(entries.journal, 0)
    if mark >= entries.first:
        status = 0 if mark >= entries.last else -2
        return status, answer_of(seen, now_us, granted=False), ledger
    after, burned = [], []
    for one, since in zip(seen, since_us, strict=True):
        counted, took = (one, 0) if one.state.since_us > since else _added(one)
        after.append(counted)
        burned.append(took)
    marks = {**ledger.charged, entries.journal: entries.last}
    answer = answer_of(after, now_us, granted=True, burned=burned)
    return 1, answer, replace(kept(ledger, after), charged=marks)


def _added(seen: ClaimedLimit) -> tuple[ClaimedLimit, int]:
    limit = seen.ask.claim.limit
    assert isinstance(limit, QuotaLimit)  # noqa: S101 - the caller's contract
    state, live, burned = limits.burn(limit, seen.state, seen.live, seen.ask.claim.cost)
    return seen._replace(state=state, live=live), burned


class Read(NamedTuple):
    """A quota's counter as it was read, in the period that began at `since_us`."""

    used: int
    since_us: int


def rebuild(
    ledger: AccountState, asks: Sequence[Ask], read: Sequence[Read], rebuilt: int, now_us: int
) -> tuple[Answer, AccountState]:
    """Add to quotas what they have lost, or take back what they have too much: a claim's cost,
    which may be negative. `granted` is False, and nothing changes, when another rebuild or a loss
    has changed the account since it was read.

    What was counted meanwhile stays counted; beside that, nothing is taken back. No threshold is
    told: the next call that is asked for tells it.
    """
    seen = see_all(ledger.states, ledger.grants, asks, now_us)
    same = all(_as_read(one, before) for one, before in zip(seen, read, strict=True))
    if ledger.rebuilt != rebuilt or not same:
        return answer_of(seen, now_us, granted=False), ledger
    after, burned = [], []
    for one in seen:
        changed, took = _added(one) if one.ask.claim.cost >= 0 else _taken_back(one)
        after.append(changed)
        burned.append(took)
    answer = answer_of(after, now_us, granted=True, burned=burned)
    return answer, replace(kept(ledger, after), rebuilt=max(now_us, rebuilt + 1))


def _as_read(seen: ClaimedLimit, read: Read) -> bool:
    state = seen.state
    more = state.used > read.used and seen.ask.claim.cost >= 0
    return state.since_us == read.since_us and (state.used == read.used or more)


def _taken_back(seen: ClaimedLimit) -> tuple[ClaimedLimit, int]:
    limit = seen.ask.claim.limit
    assert isinstance(limit, QuotaLimit)  # noqa: S101 - the caller's contract
    units = -seen.ask.claim.cost
    state, live, returned = limits.give_back(limit, seen.state, seen.live, units)
    return seen._replace(state=state, live=live), -returned
