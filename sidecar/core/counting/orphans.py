"""Reservations whose sidecar died: their leases end, and what that releases. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sidecar.core.counting import limits
from sidecar.core.counting.counters import State, change_of, changed, counters_of
from sidecar.core.counting.limits import Grant
from sidecar.core.counting.reservations import (
    NOT_ENDED,
    AccountState,
    Charge,
    Reservation,
    by_field,
    change_by,
    closed,
    per_period,
)

SWEPT: Final = 16  # leases that one operation ends at most


def sweep(account: AccountState, now_us: int) -> AccountState:
    """End expired leases, the oldest first.

    Slots become free; other charges stay or go, as each reservation says. A reservation that stays
    can still be settled.
    """
    expired = sorted((until, name) for name, until in account.leases.items() if until <= now_us)
    for _, name in expired[:SWEPT]:
        account = _orphaned(account, name, now_us)
    return account


def _orphaned(account: AccountState, hold_id: str, now_us: int) -> AccountState:
    reservation = account.opened[hold_id]
    releases = reservation.orphans == "release"
    ended = [one for one in reservation.charges if one.kind == "slots" or releases]
    for of_field in by_field(ended).values():
        account = _released(account, of_field, now_us)
    rest = tuple(charge for charge in reservation.charges if charge.kind != "slots")
    without = closed(account, hold_id)
    if releases or not rest:
        return without
    opened = {**without.opened, hold_id: Reservation(reservation.orphans, rest)}
    return replace(without, opened=opened)


def _released(account: AccountState, charges: Sequence[Charge], now_us: int) -> AccountState:
    """Return the account without the charges of a field whose request has no event."""
    charge, state = charges[0], account.states.get(charges[0].field)
    if state is None:
        return account
    if not per_period(charge):
        state = replace(state, used=max(0, state.used - charge.cost))
        return replace(account, states={**account.states, charge.field: state})
    grants, starts = account.grants, {one.since_us for one in charges}
    counters = list(counters_of(state))
    settled = 0 if charge.reported == NOT_ENDED else -charge.cost
    change, at = change_by(charge, -charge.cost, settled), _position(counters, charge)
    if charge.kind == "quota" and at is not None:
        counters[at], grants = _uncharged(counters[at], grants, charge, now_us)
        change = change_of(counters_of(state)[at], counters[at])
    after = [
        changed(one, change)
        if one.since_us in starts and (charge.kind != "quota" or number != at)
        else one
        for number, one in enumerate(counters)
    ]
    state = replace(after[0], suspended=tuple(after[1:]))
    return replace(account, states={**account.states, charge.field: state}, grants=grants)


def _position(counters: Sequence[State], charge: Charge) -> int | None:
    """Return the counter that was in use when a charge was made."""
    starts = [one.since_us for one in counters]
    return starts.index(charge.since_us) if charge.since_us in starts else None


def _uncharged(
    state: State, grants: tuple[Grant, ...], charge: Charge, now_us: int
) -> tuple[State, tuple[Grant, ...]]:
    """Return the counter and the grants without a quota's charge."""
    if charge.reported != NOT_ENDED:
        state = limits.uncount(state, charge.cost, charge.reported)
    live = limits.live_grants(grants, charge.field, state.counts, now_us)
    state, live, returned = limits.give_back(charge.allowed, state, live, charge.cost)
    state = replace(state, settled=state.settled + returned)
    after = {one.id: one for one in live}
    return state, tuple([after.get(one.id, one) for one in grants])
