"""The nouns. Immutable, plain and fast: nothing here validates, parses or does I/O.

Units: quantities are integers in the meter's unit; a *micro-unit* is 1/1,000,000 of one
(token buckets only); instants and spans ending in `_us` are microseconds of Redis time.
"""

from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from sidecar.core.json_path import JsonPath

MICRO: Final = 1_000_000
UNBOUNDED: Final = 2**53 - 1  # the largest integer that Lua's doubles hold exactly
MOST_UNITS: Final = 1_000_000_000  # of one meter, that one call may reserve

Scope = Literal["account", "key"]
PeriodUnit = Literal["hour", "day", "week", "month", "cycle"]
StoreDownMode = Literal["allow", "deny"]


class CallClass(StrEnum):
    """How much a call matters when there is not enough for all."""

    CRITICAL = "critical"
    STANDARD = "standard"
    DEFERRABLE = "deferrable"


class Unreadable(StrEnum):
    """Why a body told no cost. A finite set: metrics may use it as a label."""

    NOT_JSON = "not_json"  # by its type or by its content
    TOO_LARGE = "too_large"  # for the memory or the work that reading may cost
    MISSING = "missing"  # nothing, or null, at the path
    NOT_A_NUMBER = "not_a_number"  # not an integer from 0 to 2**53 - 1
    UNDECODABLE = "undecodable"  # an unknown content coding, or one that is broken
    TRUNCATED = "truncated"  # it ended before its end
    UNANSWERED = "unanswered"  # there was no response to read


@dataclass(frozen=True, slots=True)
class Reserve:
    """Where a request tells an estimate of its cost: a path into its JSON.

    `default` units stand when it cannot be read; `bound` is the largest body, in bytes, that
    is held back to look.
    """

    path: JsonPath
    default: int
    bound: int


@dataclass(frozen=True, slots=True)
class Meter:
    """What is counted. `settle` is where the response tells the real cost."""

    id: str
    unit: str  # singular: "request"
    reserve: Reserve | None = None
    settle: JsonPath | None = None


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


@dataclass(frozen=True, slots=True)
class QuotaLimit:
    """`units` per `period`. `cap` is where calls are refused: `units`, or more with overage.

    `notices` are ascending percentages of `units` whose crossing is told once per period.
    """

    id: str
    meter: str
    units: int
    period: PeriodUnit
    cap: int
    notices: tuple[int, ...] = ()
    per: Scope = "account"


Limit = RateLimit | QuotaLimit


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the route table; `match` is kept as written, for people to read."""

    id: str
    match: str
    method: str | None  # None: any method
    pattern: str  # "/v1/exports/**"
    call_class: CallClass
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


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays. `anchor` is the day on which billing cycles start; `timezone` an IANA name."""

    id: str
    plan: str
    timezone: str = "UTC"
    anchor: date | None = None
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """A credential of an account. The secret itself is never kept: see `identity`."""

    id: str
    account: Account


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


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What a plan says of a route: computed once, when the plan book is compiled.

    `missing` lists needed features that the plan lacks; `missing_in` is the first plan up the
    ladder that has all that the route needs (None: no plan has).

    Costs known late: `estimates` are the meters whose cost the request tells, and `read_up_to`
    is how many bytes of its body are wanted before the decision (0: none); until then their
    defaults stand in route and claims. `settles` are the meters whose real cost the response
    tells. `guessed` says for which of the estimates the default stood, and why (`claims.py`).
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
    settles: tuple[tuple[str, JsonPath], ...] = ()
    guessed: tuple[tuple[str, Unreadable], ...] = ()

    @property
    def goes_on_blind(self) -> bool:
        """Whether such a call is forwarded though the store cannot tell."""
        if self.route.call_class is CallClass.CRITICAL:
            return True
        return self.plan.when_store_is_down == "allow"


class Answer(NamedTuple):
    """What Redis says of a list of claims, in their order.

    `used`: after the grant (or as it stands, for a refusal or a peek), in micro-units for
    rates and in units for quotas. `ends_us`: when the quota's period ends; 0 for rates.
    """

    granted: bool
    now_us: int
    used: tuple[int, ...]
    ends_us: tuple[int, ...]


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


class Reason(StrEnum):
    """Why a call was allowed or refused. A finite set: metrics use it as a label."""

    OK = "ok"
    OVERAGE = "overage"  # allowed past a spent quota, as the plan allows
    CRITICAL = "critical"  # allowed past a spent limit, because the route is critical
    STORE_DOWN = "store-down"  # allowed without an answer from Redis
    RATE = "rate"
    QUOTA = "quota"
    ABUSE = "abuse"  # a critical call beyond the critical guard
    STORE_UNAVAILABLE = "store-unavailable"
    SPOOL_FULL = "spool-full"
    AMBIGUOUS = "ambiguous-credential"
    NO_CREDENTIAL = "no-credential"
    UNKNOWN_KEY = "unknown-key"
    SUSPENDED = "suspended"
    FEATURE = "missing-feature"
    BAD_TARGET = "bad-target"
    NO_ROUTE = "no-route"
    NO_PLAN = "no-plan"  # the account's plan is not in the plan file any more
    DRAINING = "draining"


class Standing(NamedTuple):
    """How one claim's limit stands after the answer.

    `limit_units` is what the customer bought (burst or quota), `used` and `remaining` are whole
    units, `reset_us` the instant at which more becomes available (refusals: enough for this
    call); None when nothing is missing.
    """

    claim: Claim
    limit_units: int
    used: int
    remaining: int
    reset_us: int | None


@dataclass(frozen=True, slots=True)
class Crossing:
    """A notice threshold that this very call crossed."""

    limit: QuotaLimit
    percent: int
    used: int
    period_end_us: int


class Decision(NamedTuple):
    """What happens to a call and why; a value, never an exception.

    `tightest`: the limit with the smallest share left (None without limits or answer).
    `violated`: the limits that refuse, first the one that takes longest to recover.
    `retry_us`: span until the call fits; None when waiting does not help or nothing is refused.
    `overage`: units beyond the quota per meter, only meters that have some.
    """

    allowed: bool
    reason: Reason
    now_us: int
    tightest: Standing | None = None
    violated: tuple[Standing, ...] = ()
    retry_us: int | None = None
    overage: tuple[tuple[str, int], ...] = ()
    crossings: tuple[Crossing, ...] = ()
