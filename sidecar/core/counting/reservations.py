"""The state of one account, with its open reservations. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from sidecar.core.counting.counters import Change, State
from sidecar.core.counting.limits import Grant
from sidecar.core.kinds import MICRO

NOT_ENDED: Final = -1
SETTLED: Final = "settled"
REPORTED_US: Final = 300 * MICRO  # how long a lost answer can be asked for again


class Charge(NamedTuple):
    """What an open reservation took from one field. `since_us`: start of the quota's period.

    If the field has suspended counters of the same meter, a charge for each start follows, without
    `allowed`, the quota's allowance when it was reserved.
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


def closed(account: AccountState, hold_id: str) -> AccountState:
    """Return the account without an open reservation and its lease."""
    return replace(
        account,
        opened={name: one for name, one in account.opened.items() if name != hold_id},
        leases={name: until for name, until in account.leases.items() if name != hold_id},
    )


def by_field(charges: Iterable[Charge]) -> dict[str, list[Charge]]:
    """Return the charges of each field, in their order."""
    found: dict[str, list[Charge]] = {}
    for charge in charges:
        found.setdefault(charge.field, []).append(charge)
    return found


def per_period(charge: Charge) -> bool:
    """Whether the charge is in a period."""
    return charge.kind in ("quota", "team")


def change_by(charge: Charge, used: int, settled: int) -> Change:
    """Return a change of the counters that have a charge. `settled`: of a quota."""
    if charge.kind == "quota":
        return Change(used, settled)
    return Change(used, 0, used)
