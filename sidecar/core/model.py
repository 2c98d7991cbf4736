"""The values that the program computes with. Immutable and plain: no validation, no I/O.

Limits are in `kinds.py`, with the units of all numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from sidecar.core.costs import Fallback, Meter, Reserve, Source, Unreadable
from sidecar.core.json_cost import JsonCost
from sidecar.core.json_path import JsonPath
from sidecar.core.kinds import Limit, RateLimit

StoreDownMode = Literal["local", "allow", "deny"]
# How a request is decided while Redis is unavailable: by its plan's mode, or "critical".
WhenDown = Literal["local", "allow", "deny", "critical"]
Orphans = Literal["charge", "release"]
Downgrades = Literal["at_once", "at_period_end"]


class RequestClass(StrEnum):
    """The importance of a request when there is not enough for all."""

    CRITICAL = "critical"
    STANDARD = "standard"
    DEFERRABLE = "deferrable"


_CRITICAL: Final = RequestClass.CRITICAL


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the route table; `match` is as written, for people to read."""

    id: str
    match: str
    method: str | None  # None: any method
    pattern: str  # "/v1/exports/**"
    request_class: RequestClass
    needs: frozenset[str]
    cost: tuple[tuple[str, int], ...]  # (meter, units), sorted by meter
    asks_usage: bool = False  # of the API, for streams whose client does not ask


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sold. `rank`: its position in the plan file, lowest first, from 0.

    `critical_guard` bounds critical requests, so that they cannot be abused; its meter is "calls".
    `closes_tunnels`: open tunnels end when a quota that they count against is used up. `refunds`:
    outcomes that cost nothing; see `settlement.refunded`. `orphans`: whether requests of a sidecar
    that died are charged.
    """

    id: str
    rank: int
    features: frozenset[str]
    limits: tuple[Limit, ...]
    critical_guard: RateLimit
    when_store_is_down: StoreDownMode
    closes_tunnels: bool = False
    refunds: frozenset[str] = frozenset()
    orphans: Orphans = "charge"


@dataclass(frozen=True, slots=True)
class Team:
    """A part of an account: `percent` of each of the account's quotas is guaranteed to it.

    `lends`: others may use the part of the guarantee that it leaves unused as time passes.
    """

    id: str
    percent: int
    lends: bool = True


class PlanChange(NamedTuple):
    """The plan that an account will be on, and the instant from which it is."""

    plan: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Account:
    """The party that pays. `anchor`: the day on which billing cycles start.

    `timezone`: an IANA name. `webhook`: an https URL that receives a POST when a deferred job
    ends. `next_plan`: the account is on `plan` until then.
    """

    id: str
    plan: str
    timezone: str = "UTC"
    anchor: date | None = None
    suspended: bool = False
    teams: tuple[Team, ...] = ()
    webhook: str | None = None
    next_plan: PlanChange | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """An API key of an account. The secret itself is not stored: see `identity`.

    `team` only matters if the account has teams. A team that the account no longer has is
    guaranteed nothing.
    """

    id: str
    account: Account
    team: str = ""

    @property
    def counted_team(self) -> str:
        """The team to which this key's usage counts, "" if the account has no teams."""
        return self.team if self.account.teams else ""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one request asks of one limit. `forced`: counted, but never refused (critical)."""

    limit: Limit
    cost: int
    forced: bool

    @property
    def enforced(self) -> bool:
        """Whether the limit can refuse it."""
        return not (self.forced or self.limit.shadow)


@dataclass(frozen=True, slots=True)
class Links:
    """URLs for `how_to_fix` of refusals; without one, its step is left out."""

    upgrade: str | None = None
    docs: str | None = None
    packs: str | None = None  # for buying a pack; "{pack}" is replaced by its id


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What a plan says of a route, computed once, for the first request that needs it.

    `missing`: needed features that the plan lacks. `missing_in`: the next plan in plan order that
    has all that the route needs; None: no plan does.

    Costs that are known late: `estimates` are the meters whose cost the request itself contains.
    `read_up_to` is how many bytes of its body are read before the decision (0: none). Until then,
    route and claims have the default costs. `settles` are the meters whose actual cost is known
    after the response, `reads` those of them that the response's body contains. `defaulted`: the
    estimates for which the default was used, and why (`claims.py`). `sized`: units of the estimates
    that the size of the request has added; `grows` are those whose size is known only when the body
    has passed. `reads_response`: the body of the response is read for costs, or for errors that the
    plan refunds. `fallbacks`: what counts of a response without them.

    `stays_open`: the reservation stays open until it is settled; otherwise there is nothing to
    correct. `late_overage`: what a quota counts may still change until then, so that the overage
    is known only when the reservation is settled.
    """

    plan: Plan
    route: Route
    claims: tuple[Claim, ...]
    missing: tuple[str, ...]
    missing_in: str | None
    policy_field: bytes  # value of RateLimit-Policy, b"" without limits
    still_available: tuple[str, ...]  # routes that stay open when the plan's limits are used up
    estimates: tuple[tuple[str, Reserve], ...] = ()
    read_up_to: int = 0
    settles: tuple[tuple[str, Source], ...] = ()
    caps: tuple[tuple[str, int], ...] = ()  # meter → the most units that one request settles
    reads: tuple[tuple[str, JsonPath | JsonCost], ...] = ()
    defaulted: tuple[tuple[str, Unreadable], ...] = ()
    sized: tuple[tuple[str, int], ...] = ()
    grows: tuple[tuple[str, Reserve], ...] = ()
    fallbacks: tuple[tuple[str, Fallback], ...] = ()
    stays_open: bool = False
    late_overage: bool = False
    reads_response: bool = False

    @property
    def when_down(self) -> WhenDown:
        """How a request is decided while Redis is unavailable."""
        critical = self.route.request_class is _CRITICAL
        return "critical" if critical else self.plan.when_store_is_down


@dataclass(frozen=True, slots=True)
class Pack:
    """Extra units for one quota, for sale. Each one that is bought becomes a grant.

    `lasts`: a period (to its end in the account's calendar), a number of seconds as text
    ("2592000s"), or an instant in µs since the epoch. `price` is text for people. `priority`:
    grants with lower numbers are used first.
    """

    id: str
    limit: str
    meter: str
    units: int
    lasts: str | int
    price: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class PlanBook:
    """One version of the plan file, compiled. A reload replaces it; nothing changes it in place.

    `entitlements` has one value for every (plan id, route id). `keys`: those of the plan file's own
    accounts, by the SHA-256 digest of the API key.
    """

    version: str  # "sha256:…" of the file's content
    meters: dict[str, Meter]
    routes: tuple[Route, ...]
    plans: dict[str, Plan]
    entitlements: Mapping[tuple[str, str], Entitlement]
    accounts: dict[str, Account] = field(default_factory=dict)
    keys: dict[bytes, Key] = field(default_factory=dict)
    anonymous_plan: str | None = None
    links: Links = Links()
    packs: dict[str, Pack] = field(default_factory=dict)
    downgrades: Downgrades = "at_once"
    warnings: tuple[str, ...] = ()  # about the file, a line each
