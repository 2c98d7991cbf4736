"""The nouns. Immutable, plain and fast: nothing here validates, parses or does I/O.

Units: quantities are integers in the meter's unit; a *micro-unit* is 1/1,000,000 of one
(token buckets only); instants and spans ending in `_us` are microseconds of Redis time.
"""

from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from sidecar.core.costs import Meter, Reserve, Source, Unreadable
from sidecar.core.json_path import JsonPath

MICRO: Final = 1_000_000
UNBOUNDED: Final = 2**53 - 1  # the largest integer that Lua's doubles hold exactly
MOST_UNITS: Final = 1_000_000_000  # of one meter, that one call may reserve

Scope = Literal["account", "key"]
PeriodUnit = str  # "hour", "day", "week", "month", "cycle", or a number of seconds: "90s"
StoreDownMode = Literal["local", "allow", "deny"]
# What becomes of one call while the store cannot tell: what its plan says, or it is critical.
WhenDown = Literal["local", "allow", "deny", "critical"]
Orphans = Literal["charge", "release"]
Downgrades = Literal["at_once", "at_period_end"]


class RequestClass(StrEnum):
    """How much a call matters when there is not enough for all."""

    CRITICAL = "critical"
    STANDARD = "standard"
    DEFERRABLE = "deferrable"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket that refills with `units` per `window_us` and holds `burst` units.

    `refill` is the same rate as micro-units per microseconds, reduced: (5, 3) means that
    5 micro-units come back every 3 µs. The configuration keeps `burst * MICRO * refill[1]`
    below 2**53, so that Lua computes it exactly.
    """

    id: str
    meter: str
    units: int
    window_us: int
    burst: int
    refill: tuple[int, int]
    per: Scope = "account"
    shadow: bool = False
    max_wait_us: int = 0  # for which a call that does not fit may be held; 0: not at all


@dataclass(frozen=True, slots=True)
class QuotaLimit:
    """`units` per `period`. `cap` is where calls are refused: `units`, or more with overage.

    `notices` are ascending percentages of `units`; reaching one is told once per period.
    `rollover`: how many units that one period leaves are carried into the next.
    """

    id: str
    meter: str
    units: int
    period: PeriodUnit
    cap: int
    notices: tuple[int, ...] = ()
    per: Scope = "account"
    rollover: int = 0
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """At most `slots` calls at once. A call holds one until it is settled."""

    id: str
    slots: int
    per: Scope = "account"
    shadow: bool = False
    meter: str = "calls"
    max_wait_us: int = 0  # as with a rate


class Guarantee(NamedTuple):
    """Units of one quota that one team is sure of; `lends` as the team does."""

    team: str
    units: int
    lends: bool


@dataclass(frozen=True, slots=True)
class TeamShare(QuotaLimit):
    """What one team of an account uses of the quota of the same id: a counter beside the quota's.

    Among claims it comes right after its quota. It has no cap of its own: it refuses what would use
    what is kept for the `others` (`teams.py`). `units` are guaranteed; `team` is "" for keys
    that have none, and these are guaranteed nothing.
    """

    team: str = ""
    lends: bool = False
    others: tuple[Guarantee, ...] = ()


# A limit in shadow is decided, counted and reported, and refuses nothing.
Limit = RateLimit | QuotaLimit | ConcurrencyLimit


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the route table; `match` is kept as written, for people to read."""

    id: str
    match: str
    method: str | None  # None: any method
    pattern: str  # "/v1/exports/**"
    request_class: RequestClass
    needs: frozenset[str]
    cost: tuple[tuple[str, int], ...]  # (meter, units), sorted by meter


@dataclass(frozen=True, slots=True)
class Plan:
    id: str
    rank: int  # place in the ladder: order of the plan file, from 0
    features: frozenset[str]
    limits: tuple[Limit, ...]
    critical_guard: RateLimit  # what keeps critical calls from being abused; meter "calls"
    when_store_is_down: StoreDownMode
    closes_tunnels: bool = False  # when a quota that they count against is spent
    refunds: frozenset[str] = frozenset()  # outcomes that cost nothing; see `settlement.refunded`
    orphans: Orphans = "charge"  # what becomes of calls whose sidecar died


@dataclass(frozen=True, slots=True)
class Team:
    """A part of an account: `percent` of each of its quotas is guaranteed to it. `lends`: what it
    does not use of that as time passes, others may use."""

    id: str
    percent: int
    lends: bool = True


class PlanChange(NamedTuple):
    """The plan that an account will be on, and from when."""

    plan: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays. `anchor` is the day on which billing cycles start; `timezone` an IANA name."""

    id: str
    plan: str
    timezone: str = "UTC"
    anchor: date | None = None
    suspended: bool = False
    teams: tuple[Team, ...] = ()
    webhook: str | None = None  # an https address that is told how deferred jobs end
    then: PlanChange | None = None  # it is on `plan` until then


@dataclass(frozen=True, slots=True)
class Key:
    """A credential of an account. The secret itself is never kept: see `identity`.

    `team` means something where the account has teams; it may be one that the account has no
    more, which is guaranteed nothing.
    """

    id: str
    account: Account
    team: str = ""

    @property
    def counted_team(self) -> str:
        """The team whose usage this key's calls are, "" if there is none."""
        return self.team if self.account.teams else ""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one request asks of one limit. `forced`: counted, but never refused (critical)."""

    limit: Limit
    cost: int
    forced: bool


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses that refusals point at; None leaves the step out."""

    upgrade: str | None = None
    docs: str | None = None
    packs: str | None = None  # where packs are bought; "{pack}" stands for one's id


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What a plan says of a route: computed once, when the plan book is compiled.

    `missing` lists needed features that the plan lacks; `missing_in` is the first plan up the
    ladder that has all that the route needs (None: no plan has).

    Costs known late: `estimates` are the meters whose cost the request tells, and `read_up_to`
    is how many bytes of its body are wanted before the decision (0: none); until then their
    defaults stand in route and claims. `settles` are the meters whose real cost is told when the
    call is over, `reads` those of them that the response's body tells. `guessed` says for which
    of the estimates the default stood, and why (`claims.py`). `held`: the reservation is kept
    until it is settled; else there is nothing to correct.
    """

    plan: Plan
    route: Route
    claims: tuple[Claim, ...]
    missing: tuple[str, ...]
    missing_in: str | None
    policy_field: bytes  # value of RateLimit-Policy, b"" without limits
    still_available: tuple[str, ...]  # routes that stay open when the plan's limits are spent
    estimates: tuple[tuple[str, Reserve], ...] = ()
    read_up_to: int = 0
    settles: tuple[tuple[str, Source], ...] = ()
    reads: tuple[tuple[str, JsonPath], ...] = ()
    guessed: tuple[tuple[str, Unreadable], ...] = ()
    held: bool = False

    @property
    def when_down(self) -> WhenDown:
        """What becomes of such a call while the store cannot tell."""
        critical = self.route.request_class is RequestClass.CRITICAL
        return "critical" if critical else self.plan.when_store_is_down


@dataclass(frozen=True, slots=True)
class Pack:
    """Extra units that can be bought for one quota. Buying one makes a grant.

    `lasts`: a period (to its end, as the account has it), or a number of seconds as text
    ("2592000s"), or an instant in µs since the epoch. `price` is text for people.
    """

    id: str
    limit: str
    meter: str
    units: int
    lasts: str | int
    price: str = ""
    priority: int = 0  # grants of lower numbers are used first


@dataclass(frozen=True, slots=True)
class PlanBook:
    """One version of the plan file, compiled. Swapped whole, never changed in place.

    `entitlements` holds one value for every (plan id, route id). Keys of the plan file's own
    accounts are found by the SHA-256 digest of the credential.
    """

    version: str  # "sha256:…" of the file's content
    meters: dict[str, Meter]
    routes: tuple[Route, ...]
    plans: dict[str, Plan]
    entitlements: dict[tuple[str, str], Entitlement]
    accounts: dict[str, Account] = field(default_factory=dict)
    keys: dict[bytes, Key] = field(default_factory=dict)
    anonymous_plan: str | None = None
    links: Links = Links()
    packs: dict[str, Pack] = field(default_factory=dict)
    downgrades: Downgrades = "at_once"
