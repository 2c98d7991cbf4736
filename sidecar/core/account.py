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
from sidecar.core.model import MICRO, RATE, SLOTS
from sidecar.core.survey import BoundClaim, ClaimedLimit, answer_of, fits, survey_limits

SWEPT: Final = 16  # leases that one operation ends at most
KEPT_US: Final = 35 * 86_400 * MICRO  # how long the id of an expired grant stays taken


class Charge(NamedTuple):
    """What an open reservation took from one field. `since_us`: start of the quota's period."""

    kind: str  # name of a `Kind`
    field: str
    cost: int
    since_us: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation that is not settled yet."""

    orphans: str
    charges: tuple[Charge, ...]


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
    after, charges, burned = [], [], []
    for one in surveyed:
        charged, units = _charge(one)
        after.append(charged)
        burned.append(units)
        if charged.end_us >= 0:
            claim, limit = one.bound.claim, one.bound.claim.limit
            weight = limit.weight(claim.cost)
            charges.append(Charge(limit.kind.name, one.bound.field, weight, one.state.since_us))
    account = with_limits(account, after)
    if hold is not None:
        account = _opened(account, hold, tuple(charges), now_us)
    return answer_of(after, now_us, granted=True, burned=burned), account


def _opened(
    account: AccountState, hold: Hold, charges: tuple[Charge, ...], now_us: int
) -> AccountState:
    """Needs a lease if something ends with the sidecar: slots, or all of a released reservation."""
    leases = dict(account.leases)
    if hold.orphans == "release" or any(charge.kind == "slots" for charge in charges):
        leases[hold.id] = now_us + hold.lease_us
    opened = {**account.opened, hold.id: Reservation(hold.orphans, charges)}
    return replace(account, opened=opened, leases=leases)


def _charge(one: ClaimedLimit) -> tuple[ClaimedLimit, int]:
    """Return the limit after its claim, and the units that grants paid.

    A rate in shadow counts only what fits, and has -1 as its end otherwise: it would never recover
    from the requests that it does not refuse. A forced claim puts a rate in debt by at most one
    burst or its own cost: other requests must not wait much longer for it.
    """
    claim = one.bound.claim
    limit = claim.limit
    if limit.kind is RATE and not fits(one):
        weight, full = limit.weight(claim.cost), limit.full
        if not claim.forced or one.state.used + weight > max(2 * full, full + weight):
            return one._replace(end_us=-1), 0
    state, live, burned = limits.add(limit, one.state, one.grants, limit.weight(claim.cost))
    return one._replace(state=limits.notify(limit, state), grants=live), burned


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
    account: AccountState, hold_id: str, claims: Sequence[BoundClaim], now_us: int
) -> tuple[Answer, AccountState]:
    """Correct an open reservation to its actual cost and close it.

    `granted` is False, and nothing changes, if no reservation is open under this id. A claim's cost
    is the actual one; a claim on slots frees the slot. A quota whose period is over stays as it is:
    that counter is closed. Debt is recorded, not clipped, except that a forced claim puts a rate in
    debt by at most one burst.
    """
    surveyed = survey_limits(account.states, account.grants, claims, now_us)
    reservation = account.opened.get(hold_id)
    if reservation is None:
        return answer_of(surveyed, now_us, granted=False), account
    charged = {charge.field: charge for charge in reservation.charges}
    after, burned = [], []
    for one in surveyed:
        corrected, units = _correct(one, charged.get(one.bound.field))
        after.append(corrected)
        burned.append(units)
    account = with_limits(account, after)
    return answer_of(after, now_us, granted=True, burned=burned), _closed(account, hold_id)


def _correct(one: ClaimedLimit, charge: Charge | None) -> tuple[ClaimedLimit, int]:
    claim, limit = one.bound.claim, one.bound.claim.limit
    if charge is None or (_per_period(charge) and one.state.since_us != charge.since_us):
        return one, 0
    actual = 0 if limit.kind is SLOTS else limit.weight(claim.cost)
    difference = actual - charge.cost
    if limit.kind is RATE and claim.forced:
        difference = min(difference, max(0, 2 * limit.full - one.state.used))
    state, live, burned = limits.add(limit, one.state, one.grants, difference)
    if actual >= charge.cost:
        state = limits.notify(limit, state)
    return one._replace(state=state, grants=live), burned


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
        account = _orphaned(account, name)
    return account


def _orphaned(account: AccountState, hold_id: str) -> AccountState:
    reservation = account.opened[hold_id]
    releases = reservation.orphans == "release"
    account = _repaid(account, reservation) if releases else account
    states = dict(account.states)
    for charge in reservation.charges:
        if charge.kind == "slots" or releases:
            state = states.get(charge.field, EMPTY)
            if not _per_period(charge) or state.since_us == charge.since_us:
                states[charge.field] = _released(state, charge)
    rest = tuple(charge for charge in reservation.charges if charge.kind != "slots")
    closed = _closed(account, hold_id)
    if releases or not rest:
        return replace(closed, states=states)
    opened = {**closed.opened, hold_id: Reservation(reservation.orphans, rest)}
    return replace(closed, states=states, opened=opened)


def _released(state: State, charge: Charge) -> State:
    notified = state.notified
    if charge.kind == "team":
        notified = max(0, notified - charge.cost)
    return replace(state, used=max(0, state.used - charge.cost), notified=notified)


def _repaid(account: AccountState, reservation: Reservation) -> AccountState:
    """Return released units to the grants that paid them, last used first.

    Grants paid what is released but is not in the counter.
    """
    grants = list(account.grants)
    for charge in reservation.charges:
        state = account.states.get(charge.field, EMPTY)
        if charge.kind != "quota" or state.since_us != charge.since_us:
            continue
        wanted = max(0, charge.cost - state.used)
        for at in reversed(range(len(grants))):
            given = min(wanted, grants[at].used) if grants[at].field == charge.field else 0
            grants[at] = replace(grants[at], used=grants[at].used - given)
            wanted -= given
    return replace(account, grants=tuple(grants))


def grant(account: AccountState, given: Grant, now_us: int) -> tuple[bool, AccountState]:
    """Add a grant, once: False if its id is taken."""
    if any(known.id == given.id for known in account.grants):
        return False, account
    known = [one for one in account.grants if one.expires_us + KEPT_US > now_us]
    return True, replace(account, grants=tuple(sorted([*known, given], key=lambda one: one.order)))
