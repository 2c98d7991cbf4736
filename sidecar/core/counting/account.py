"""All limits of one account as Redis stores them, and every operation on them. Pure.

This is the reference: each operation is one Lua script, and the property tests replay the scripts
against it. An account's state is a value; an operation returns the next one. Operations that count
later, without a decision, are in `corrections.py`.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from sidecar.core.answers import Answer, Hold
from sidecar.core.counting import limits
from sidecar.core.counting.counters import State, changed_suspended, of_one_meter, with_change
from sidecar.core.counting.limits import Grant
from sidecar.core.counting.orphans import sweep
from sidecar.core.counting.reservations import (
    NOT_ENDED,
    REPORTED_US,
    SETTLED,
    AccountState,
    Charge,
    Reservation,
    by_field,
    change_by,
    closed,
    per_period,
)
from sidecar.core.counting.survey import BoundClaim, ClaimedLimit, answer_of, fits, survey_limits
from sidecar.core.kinds import MICRO, RATE, SLOTS, QuotaLimit

KEPT_US: Final = 35 * 86_400 * MICRO  # how long the id of an expired grant stays taken


def peek(account: AccountState, claims: Sequence[BoundClaim], now_us: int) -> Answer:
    """Return what `reserve` would decide, and the limits before it.

    Slots of expired leases count as free, although they are not swept yet.
    """
    surveyed = survey_limits(account.states, account.grants, claims, now_us)
    expired = [name for name, until in account.leases.items() if until <= now_us]
    for number, one in enumerate(surveyed):
        dead = sum(
            charge.cost
            for name in expired
            for charge in account.opened[name].charges
            if charge.kind == "slots" and charge.field == one.bound.field
        )
        if dead:
            state = replace(one.state, used=max(0, one.state.used - dead))
            surveyed[number] = one._replace(state=state)
    return answer_of(surveyed, now_us, granted=_all_granted(surveyed))


def _all_granted(surveyed: Sequence[ClaimedLimit]) -> bool:
    return all(fits(one) or not one.bound.claim.enforced for one in surveyed)


def reserve(
    account: AccountState, claims: Sequence[BoundClaim], now_us: int, hold: Hold | None = None
) -> tuple[Answer, AccountState]:
    """Grant all claims or none: the answer, and the account afterwards.

    With `hold`, expired leases are ended first. `now_us` has to lie within the windows.
    """
    if hold is not None:
        account = sweep(account, now_us)
    surveyed = survey_limits(account.states, account.grants, claims, now_us)
    if not _all_granted(surveyed):
        return answer_of(surveyed, now_us, granted=False), account
    late = hold is not None and hold.late
    after, charges = [], []
    for one in surveyed:
        charged = _charge(one, late=late)
        after.append(charged)
        if charged.end_us >= 0:
            charges += _charges_of(charged, late=late)
    account = with_limits(account, after)
    if hold is not None:
        account = _opened(account, hold, tuple(charges), now_us)
    return answer_of(after, now_us, granted=True), account


def _charges_of(one: ClaimedLimit, *, late: bool) -> list[Charge]:
    claim, limit, state = one.bound.claim, one.bound.claim.limit, one.state
    name, weight, reported, allowed = limit.kind.name, limit.weight(claim.cost), NOT_ENDED, 0
    if isinstance(limit, QuotaLimit):
        reported = NOT_ENDED if late else one.overage
        allowed = limits.allowance(limit, state)
    first, *others = dict.fromkeys(counter.since_us for counter in of_one_meter(state))
    return [
        Charge(name, one.bound.field, weight, first, reported, allowed),
        *(Charge(name, one.bound.field, weight, since, reported) for since in others),
    ]


def _opened(
    account: AccountState, hold: Hold, charges: tuple[Charge, ...], now_us: int
) -> AccountState:
    """Needs a lease if something ends with the sidecar: slots, or all of a released reservation."""
    leases = dict(account.leases)
    if hold.orphans == "release" or any(charge.kind == "slots" for charge in charges):
        leases[hold.id] = now_us + hold.lease_us
    opened = {**account.opened, hold.id: Reservation(hold.orphans, charges)}
    return replace(account, opened=opened, leases=leases)


def _charge(one: ClaimedLimit, *, late: bool) -> ClaimedLimit:
    """Return the limit after its claim. `late`: its overage is known when it is settled.

    A rate in shadow counts only what fits, and has -1 as its end otherwise: it would never recover
    from the requests that it does not refuse. A forced claim puts a rate in debt by at most one
    burst or its own cost: other requests must not wait much longer for it.
    """
    claim = one.bound.claim
    limit = claim.limit
    if limit.kind is RATE and not fits(one):
        weight, full = limit.weight(claim.cost), limit.full
        if not claim.forced or one.state.used + weight > max(2 * full, full + weight):
            return one._replace(end_us=-1)
    state, live, burned = limits.add(limit, one.state, one.grants, limit.weight(claim.cost))
    reported = 0
    if isinstance(limit, QuotaLimit):
        if late:
            settled, closed_us = state.settled - burned, state.closed_us or 1
            state = replace(state, settled=settled, closed_us=closed_us)
        else:
            state, reported = limits.report(limits.count(limit, state, claim.cost, burned))
    state = limits.notify(limit, with_change(limit, one.state, state))
    return one._replace(state=state, grants=live, burned=burned, overage=reported)


def with_limits(account: AccountState, surveyed: Sequence[ClaimedLimit]) -> AccountState:
    """Return the account with these limits and their grants."""
    grants = {grant.id: grant for grant in account.grants}
    grants |= {grant.id: grant for one in surveyed for grant in one.grants}
    return replace(
        account,
        states={**account.states, **{one.bound.field: one.state for one in surveyed}},
        grants=tuple(grants.values()),
    )


def settle(
    account: AccountState,
    hold_id: str,
    claims: Sequence[BoundClaim],
    now_us: int,
    *,
    billed: bool = True,
) -> tuple[Answer, AccountState]:
    """Correct an open reservation to its actual cost and close it.

    `granted` is False, and nothing changes, if no reservation is open under this id. A claim's cost
    is the actual one; a claim on slots frees the slot. A quota whose period is over stays as it is:
    that counter is closed. Debt is recorded, not clipped, except that a forced claim puts a rate in
    debt by at most one burst. `billed`: an event reports the overage that the answer has.
    """
    surveyed = survey_limits(account.states, account.grants, claims, now_us)
    reservation = account.opened.get(hold_id)
    if reservation is None:
        return answer_of(surveyed, now_us, granted=False), account
    if reservation.orphans == SETTLED:
        reported = reservation.reported
        surveyed = [
            one._replace(overage=units) for one, units in zip(surveyed, reported, strict=True)
        ]
        return answer_of(surveyed, now_us, granted=False), account
    charged = by_field(reservation.charges)
    after = [_correct(one, charged.get(one.bound.field, ()), billed=billed) for one in surveyed]
    account = closed(with_limits(account, after), hold_id)
    if any(one.overage for one in after):
        settled = Reservation(SETTLED, (), tuple([one.overage for one in after]))
        account = replace(
            account,
            opened={**account.opened, hold_id: settled},
            leases={**account.leases, hold_id: now_us + REPORTED_US},
        )
    return answer_of(after, now_us, granted=True), account


def _correct(one: ClaimedLimit, charges: Sequence[Charge], *, billed: bool) -> ClaimedLimit:
    claim, limit = one.bound.claim, one.bound.claim.limit
    if not charges:
        return one
    charge, starts = charges[0], {charge.since_us for charge in charges}
    if isinstance(limit, QuotaLimit):
        corrected = _corrected_quota(one, limit, charge, starts, billed=billed)
        return corrected._replace(state=_passed_on(one, corrected.state, charge, starts))
    actual = 0 if limit.kind is SLOTS else limit.weight(claim.cost)
    difference = actual - charge.cost
    if limit.kind is RATE and claim.forced:
        difference = min(difference, max(0, 2 * limit.full - one.state.used))
    state = one.state
    if not per_period(charge) or state.since_us in starts:
        state, _, _ = limits.add(limit, state, one.grants, difference)
    if per_period(charge):
        state = _passed_on(one, state, charge, starts)
    return one._replace(state=state)


def _passed_on(one: ClaimedLimit, state: State, charge: Charge, starts: Collection[int]) -> State:
    """Return the state after a settlement, with the correction of the suspended counters."""
    if one.state.since_us in starts:
        return with_change(one.bound.claim.limit, one.state, state, starts)
    cost = one.bound.claim.cost
    settled = cost if charge.reported == NOT_ENDED else cost - charge.cost
    change = change_by(charge, cost - charge.cost, settled)
    return replace(state, suspended=changed_suspended(one.state, change, starts))


def _corrected_quota(
    one: ClaimedLimit,
    limit: QuotaLimit,
    charge: Charge,
    starts: Collection[int],
    *,
    billed: bool,
) -> ClaimedLimit:
    """Return the quota after a settlement: the estimate is given back, and the cost is used.

    So a pack that was bought in between pays for what would be overage.
    """
    state, live, burned = one.state, one.grants, 0
    actual, late = one.bound.claim.cost, charge.reported == NOT_ENDED
    if state.since_us in starts:
        if not late and actual == charge.cost:
            return one
        if not late:
            state = limits.uncount(state, charge.cost, charge.reported)
        allowed = limits.allowance(limit, state)
        before = state.used
        state, live, returned = limits.give_back(allowed, state, live, charge.cost)
        state = replace(state, settled=state.settled + returned)
        kept = charge.cost - returned - (before - state.used)  # expired grants paid it
        state, live, burned = limits.burn(limit, state, live, max(0, actual - kept))
        state = limits.count(limit, state, actual, burned)
        burned -= returned
        if actual >= charge.cost:
            state = limits.notify(limit, state)
    elif late and state.closed_us in starts:
        state = limits.count_closed(state, actual)
    reported = 0
    if late and billed:
        state, reported = limits.report(state)
    return one._replace(state=state, grants=live, burned=burned, overage=reported)


def renew(
    account: AccountState, hold_ids: Sequence[str], lease_us: int, now_us: int
) -> AccountState:
    """Renew these leases, except those that are swept already."""
    until = {name: now_us + lease_us for name in hold_ids if name in account.leases}
    return replace(account, leases={**account.leases, **until})


def grant(account: AccountState, given: Grant, now_us: int) -> tuple[bool, AccountState]:
    """Add a grant, once: False if its id is taken."""
    if any(known.id == given.id for known in account.grants):
        return False, account
    known = [one for one in account.grants if one.expires_us + KEPT_US > now_us]
    return True, replace(account, grants=tuple(sorted([*known, given], key=lambda one: one.order)))
