"""All limits of one account, as Redis holds them, and every operation on them. Pure.

This is the reference: each operation is one Lua script, and the property tests replay the
scripts against it. An account is a value; an operation returns the next one. What is counted
after the fact, without a decision, is in `afterwards.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sidecar.core import limits
from sidecar.core.answers import Answer, Hold
from sidecar.core.limits import EMPTY, Grant, State
from sidecar.core.model import MICRO, UNBOUNDED, QuotaLimit, RateLimit
from sidecar.core.survey import Ask, ClaimedLimit, answer_of, fits, kind_of, see_all, weight

SWEPT: int = 16  # leases that one operation ends at most
KEPT_US: int = 35 * 86_400 * MICRO  # how long an expired grant's id stays taken


class Charge(NamedTuple):
    """What an open reservation took from one field. `since_us`: of the quota's period."""

    kind: str  # "rate", "quota", "team" or "slots"
    field: str
    cost: int
    since_us: int


@dataclass(frozen=True, slots=True)
class Open:
    """A reservation that is not settled yet."""

    orphans: str
    charges: tuple[Charge, ...]


@dataclass(frozen=True, slots=True)
class AccountState:
    """One account. `leases`: until when the open reservations with slots (or to be released)
    are believed to be alive. `charged`: of each journal, up to which number. `rebuilt`: when
    counters were last rebuilt from the events."""

    states: Mapping[str, State] = field(default_factory=dict)
    grants: tuple[Grant, ...] = ()  # in the order in which they are used
    opened: Mapping[str, Open] = field(default_factory=dict)
    leases: Mapping[str, int] = field(default_factory=dict)
    charged: Mapping[str, int] = field(default_factory=dict)
    rebuilt: int = 0


NEW = AccountState()


def peek(ledger: AccountState, asks: Sequence[Ask], now_us: int) -> Answer:
    """What `reserve` would decide, and how the limits stand before it. Slots of leases that are
    over count as free, though they have not been swept yet."""
    seen = see_all(ledger.states, ledger.grants, asks, now_us)
    over = [name for name, until in ledger.leases.items() if until <= now_us]
    for number, one in enumerate(seen):
        dead = sum(
            charge.cost
            for name in over
            for charge in ledger.opened[name].charges
            if charge.kind == "slots" and charge.field == one.ask.field
        )
        state = replace(one.state, used=max(0, one.state.used - dead)) if dead else one.state
        seen[number] = one._replace(state=state)
    granted = all(fits(one) or _not_enforced(one) for one in seen)
    return answer_of(seen, now_us, granted=granted)


def _not_enforced(seen: ClaimedLimit) -> bool:
    return seen.ask.claim.forced or seen.ask.claim.limit.shadow


def reserve(
    ledger: AccountState, asks: Sequence[Ask], now_us: int, hold: Hold | None = None
) -> tuple[Answer, AccountState]:
    """Grant all claims or none: the answer, and the account afterwards.

    Leases that are over are ended first, if the reservation is held. The caller sees to it
    that `now_us` lies within the windows.
    """
    if hold is not None:
        ledger = sweep(ledger, now_us)
    seen = see_all(ledger.states, ledger.grants, asks, now_us)
    if not all(fits(one) or _not_enforced(one) for one in seen):
        return answer_of(seen, now_us, granted=False), ledger
    after, charges, burned = [], [], []
    for one in seen:
        charged, took = _charge(one)
        after.append(charged)
        burned.append(took)
        if charged.end_us >= 0:
            claim = one.ask.claim
            charges.append(Charge(kind_of(claim), one.ask.field, weight(claim), one.state.since_us))
    ledger = kept(ledger, after)
    if hold is not None:
        ledger = _opened(ledger, hold, tuple(charges), now_us)
    return answer_of(after, now_us, granted=True, burned=burned), ledger


def _opened(
    ledger: AccountState, hold: Hold, charges: tuple[Charge, ...], now_us: int
) -> AccountState:
    """A lease is needed by what ends with the sidecar: slots, and what is then released."""
    leases = dict(ledger.leases)
    if hold.orphans == "release" or any(charge.kind == "slots" for charge in charges):
        leases[hold.id] = now_us + hold.lease_us
    opened = {**ledger.opened, hold.id: Open(hold.orphans, charges)}
    return replace(ledger, opened=opened, leases=leases)


def _charge(seen: ClaimedLimit) -> tuple[ClaimedLimit, int]:
    """The limit after its claim, and what grants paid. A rate in shadow counts what fits: it
    would otherwise never recover from what it ought to have refused. Its end is -1 then."""
    claim = seen.ask.claim
    limit = claim.limit
    if isinstance(limit, QuotaLimit):
        state, live, burned = limits.burn(limit, seen.state, seen.live, claim.cost)
        return seen._replace(state=limits.tell(limit, state), live=live), burned
    if isinstance(limit, RateLimit) and limit.shadow and not claim.forced and not fits(seen):
        return seen._replace(end_us=-1), 0
    used = min(seen.state.used + weight(claim), UNBOUNDED)
    return seen._replace(state=replace(seen.state, used=used)), 0


def kept(ledger: AccountState, seen: Sequence[ClaimedLimit]) -> AccountState:
    """The account with these limits, and their grants, as they are now."""
    grants = {grant.id: grant for grant in ledger.grants}
    grants |= {grant.id: grant for one in seen for grant in one.live}
    return replace(
        ledger,
        states={**ledger.states, **{one.ask.field: one.state for one in seen}},
        grants=tuple(grants.values()),
    )


def settle(
    ledger: AccountState, hold_id: str, asks: Sequence[Ask], now_us: int
) -> tuple[Answer, AccountState]:
    """Correct an open reservation to what it really cost and close it. `granted` is False, and
    nothing changes, when there is none of this id.

    A claim's cost is the real one; a claim on slots gives the slot back. A quota whose period
    is over is left alone: that counter is closed. Debt is recorded, not clipped.
    """
    seen = see_all(ledger.states, ledger.grants, asks, now_us)
    known = ledger.opened.get(hold_id)
    if known is None:
        return answer_of(seen, now_us, granted=False), ledger
    charged = {charge.field: charge for charge in known.charges}
    after, burned = [], []
    for one in seen:
        corrected, took = _correct(one, charged.get(one.ask.field))
        after.append(corrected)
        burned.append(took)
    ledger = kept(ledger, after)
    return answer_of(after, now_us, granted=True, burned=burned), _closed(ledger, hold_id)


def _correct(seen: ClaimedLimit, charge: Charge | None) -> tuple[ClaimedLimit, int]:
    claim = seen.ask.claim
    limit = claim.limit
    if charge is None:
        return seen, 0
    if isinstance(limit, QuotaLimit):
        if seen.state.since_us != charge.since_us:
            return seen, 0
        difference = claim.cost - charge.cost
        if difference >= 0:
            state, live, burned = limits.burn(limit, seen.state, seen.live, difference)
            return seen._replace(state=limits.tell(limit, state), live=live), burned
        state, live, returned = limits.give_back(limit, seen.state, seen.live, -difference)
        return seen._replace(state=state, live=live), -returned
    difference = weight(claim) - charge.cost if isinstance(limit, RateLimit) else -charge.cost
    used = min(max(0, seen.state.used + difference), UNBOUNDED)
    return seen._replace(state=replace(seen.state, used=used)), 0


def _closed(ledger: AccountState, hold_id: str) -> AccountState:
    return replace(
        ledger,
        opened={name: one for name, one in ledger.opened.items() if name != hold_id},
        leases={name: until for name, until in ledger.leases.items() if name != hold_id},
    )


def renew(
    ledger: AccountState, hold_ids: Sequence[str], lease_us: int, now_us: int
) -> AccountState:
    """Their sidecar is alive: leases that are not over yet begin anew."""
    until = {name: now_us + lease_us for name in hold_ids if name in ledger.leases}
    return replace(ledger, leases={**ledger.leases, **until})


def sweep(ledger: AccountState, now_us: int) -> AccountState:
    """End leases that are over, the oldest first: slots come back, and what was charged stays
    or goes as each reservation says. One that stays can still be settled, late as it is."""
    over = sorted((until, name) for name, until in ledger.leases.items() if until <= now_us)
    for _, name in over[:SWEPT]:
        ledger = _orphaned(ledger, name)
    return ledger


def _orphaned(ledger: AccountState, hold_id: str) -> AccountState:
    known = ledger.opened[hold_id]
    releases = known.orphans == "release"
    ledger = _repaid(ledger, known) if releases else ledger
    states = dict(ledger.states)
    for charge in known.charges:
        if charge.kind == "slots" or releases:
            state = states.get(charge.field, EMPTY)
            of_period = charge.kind in ("quota", "team")
            if not of_period or state.since_us == charge.since_us:
                states[charge.field] = _released(state, charge)
    rest = tuple(charge for charge in known.charges if charge.kind != "slots")
    closed = _closed(ledger, hold_id)
    if releases or not rest:
        return replace(closed, states=states)
    opened = {**closed.opened, hold_id: Open(known.orphans, rest)}
    return replace(closed, states=states, opened=opened)


def _released(state: State, charge: Charge) -> State:
    told = max(0, state.told - charge.cost) if charge.kind == "team" else state.told
    return replace(state, used=max(0, state.used - charge.cost), told=told)


def _repaid(ledger: AccountState, known: Open) -> AccountState:
    """What is released and is not in the counter was paid by grants: it is theirs again, last used
    first."""
    grants = list(ledger.grants)
    for charge in known.charges:
        state = ledger.states.get(charge.field, EMPTY)
        if charge.kind != "quota" or state.since_us != charge.since_us:
            continue
        wanted = max(0, charge.cost - state.used)
        for at in reversed(range(len(grants))):
            given = min(wanted, grants[at].used) if grants[at].field == charge.field else 0
            grants[at] = replace(grants[at], used=grants[at].used - given)
            wanted -= given
    return replace(ledger, grants=tuple(grants))


def grant(ledger: AccountState, given: Grant, now_us: int) -> tuple[bool, AccountState]:
    """Add a grant, once: False when its id is taken."""
    if any(known.id == given.id for known in ledger.grants):
        return False, ledger
    known = [one for one in ledger.grants if one.expires_us + KEPT_US > now_us]
    return True, replace(ledger, grants=tuple(sorted([*known, given], key=lambda one: one.order)))
