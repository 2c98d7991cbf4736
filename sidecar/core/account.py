"""All limits of one account as Redis stores them, and every operation on them. Pure.

This is the reference: each operation is one Lua script, and the property tests replay the scripts
against it. An account's state is a value; an operation returns the next one. Operations that count
later, without a decision, are in `corrections.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from sidecar.core import limits
from sidecar.core.answers import Answer, Hold
from sidecar.core.limits import EMPTY, Grant, State
from sidecar.core.model import MICRO, RATE, SLOTS, QuotaLimit
from sidecar.core.survey import BoundClaim, ClaimedLimit, answer_of, fits, survey_limits

SWEPT: Final = 16  # leases that one operation ends at most
KEPT_US: Final = 35 * 86_400 * MICRO  # how long the id of an expired grant stays taken


NOT_ENDED: Final = -1
SETTLED: Final = "settled"
REPORTED_US: Final = 300 * MICRO  # how long a lost answer can be asked for again


class Charge(NamedTuple):
    """What an open reservation took from one field. `since_us`: start of the quota's period.

    `allowed`: the quota's allowance when it was reserved.
    `reported`: the overage that the answer to `reserve` reported, of a cost that cannot change; or
    NOT_ENDED: the request counts for overage when it is settled.
    """

    kind: str  # name of a `Kind`
    field: str
    cost: int
    since_us: int
    reported: int = NOT_ENDED
    allowed: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation that is not settled yet.

    One that is settled stays for REPORTED_US if its event has to report overage, as the answer may
    get lost: then `orphans` is SETTLED, and `reported` has the overage of each claim.
    """

    orphans: str
    charges: tuple[Charge, ...]
    reported: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AccountState:
    """The state of one account.

    `leases`: the ends of the reservation leases, for open reservations that have slots or are
    released if their sidecar dies. `charged`: the last charged entry of each journal. `rebuilt`:
    the instant at which counters were last rebuilt from the events, in µs.
    """

    states: Mapping[str, State] = field(default_factory=dict)
    grants: tuple[Grant, ...] = ()  # in the order in which they are used
    opened: Mapping[str, Reservation] = field(default_factory=dict)
    leases: Mapping[str, int] = field(default_factory=dict)
    charged: Mapping[str, int] = field(default_factory=dict)
    rebuilt: int = 0


NEW = AccountState()


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
            charges.append(_charge_of(charged, late=late))
    account = with_limits(account, after)
    if hold is not None:
        account = _opened(account, hold, tuple(charges), now_us)
    return answer_of(after, now_us, granted=True), account


def _charge_of(one: ClaimedLimit, *, late: bool) -> Charge:
    claim, limit, state = one.bound.claim, one.bound.claim.limit, one.state
    charge = Charge(limit.kind.name, one.bound.field, limit.weight(claim.cost), state.since_us)
    if not isinstance(limit, QuotaLimit):
        return charge
    reported = NOT_ENDED if late else one.overage
    return charge._replace(reported=reported, allowed=limits.allowance(limit, state))


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
    state = limits.notify(limit, state)
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
    charged = {charge.field: charge for charge in reservation.charges}
    after = [_correct(one, charged.get(one.bound.field), billed=billed) for one in surveyed]
    account = _closed(with_limits(account, after), hold_id)
    if any(one.overage for one in after):
        settled = Reservation(SETTLED, (), tuple([one.overage for one in after]))
        account = replace(
            account,
            opened={**account.opened, hold_id: settled},
            leases={**account.leases, hold_id: now_us + REPORTED_US},
        )
    return answer_of(after, now_us, granted=True), account


def _correct(one: ClaimedLimit, charge: Charge | None, *, billed: bool) -> ClaimedLimit:
    claim, limit = one.bound.claim, one.bound.claim.limit
    if charge is None:
        return one
    if isinstance(limit, QuotaLimit):
        return _corrected_quota(one, limit, charge, billed=billed)
    if _per_period(charge) and one.state.since_us != charge.since_us:
        return one
    actual = 0 if limit.kind is SLOTS else limit.weight(claim.cost)
    difference = actual - charge.cost
    if limit.kind is RATE and claim.forced:
        difference = min(difference, max(0, 2 * limit.full - one.state.used))
    state, live, _ = limits.add(limit, one.state, one.grants, difference)
    return one._replace(state=state, grants=live)


def _corrected_quota(
    one: ClaimedLimit, limit: QuotaLimit, charge: Charge, *, billed: bool
) -> ClaimedLimit:
    """Return the quota after a settlement: the estimate is given back, and the cost is used.

    So a pack that was bought in between pays for what would be overage.
    """
    state, live, burned = one.state, one.grants, 0
    actual, late = one.bound.claim.cost, charge.reported == NOT_ENDED
    if state.since_us == charge.since_us:
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
    elif late and state.closed_us == charge.since_us:
        state = limits.count_closed(state, actual)
    reported = 0
    if late and billed:
        state, reported = limits.report(state)
    return one._replace(state=state, grants=live, burned=burned, overage=reported)


def _per_period(charge: Charge) -> bool:
    return charge.kind in ("quota", "team")


def _closed(account: AccountState, hold_id: str) -> AccountState:
    return replace(
        account,
        opened={name: one for name, one in account.opened.items() if name != hold_id},
        leases={name: until for name, until in account.leases.items() if name != hold_id},
    )


def renew(
    account: AccountState, hold_ids: Sequence[str], lease_us: int, now_us: int
) -> AccountState:
    """Renew these leases, except those that are swept already."""
    until = {name: now_us + lease_us for name in hold_ids if name in account.leases}
    return replace(account, leases={**account.leases, **until})


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
    for charge in reservation.charges:
        if charge.kind == "slots" or releases:
            account = _released(account, charge, now_us)
    rest = tuple(charge for charge in reservation.charges if charge.kind != "slots")
    closed = _closed(account, hold_id)
    if releases or not rest:
        return closed
    opened = {**closed.opened, hold_id: Reservation(reservation.orphans, rest)}
    return replace(closed, opened=opened)


def _released(account: AccountState, charge: Charge, now_us: int) -> AccountState:
    """Return the account without a charge whose request has no event."""
    state, grants = account.states.get(charge.field, EMPTY), account.grants
    if _per_period(charge) and state.since_us != charge.since_us:
        return account
    if charge.kind == "quota":
        if charge.reported != NOT_ENDED:
            state = limits.uncount(state, charge.cost, charge.reported)
        live = [one for one in grants if one.field == charge.field and one.expires_us > now_us]
        state, live, returned = limits.give_back(charge.allowed, state, live, charge.cost)
        state = replace(state, settled=state.settled + returned)
        after = {one.id: one for one in live}
        grants = tuple([after.get(one.id, one) for one in grants])
    else:
        notified = state.notified
        if charge.kind == "team":
            notified = max(0, notified - charge.cost)
        state = replace(state, used=max(0, state.used - charge.cost), notified=notified)
    return replace(account, states={**account.states, charge.field: state}, grants=grants)


def grant(account: AccountState, given: Grant, now_us: int) -> tuple[bool, AccountState]:
    """Add a grant, once: False if its id is taken."""
    if any(known.id == given.id for known in account.grants):
        return False, account
    known = [one for one in account.grants if one.expires_us + KEPT_US > now_us]
    return True, replace(account, grants=tuple(sorted([*known, given], key=lambda one: one.order)))
