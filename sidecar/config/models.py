"""The shape of a plan file, as pydantic models. `compile` turns them into a plan book."""

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)

from sidecar.config import limit_kinds, route_patterns, values
from sidecar.config.late_costs import ReserveModel, SettleModel, Strict
from sidecar.core.kinds import MOST_UNITS
from sidecar.core.settlement import REFUNDABLE

Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
AccountId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}$")]
Cost = Annotated[
    int | Literal["reserve"],
    PlainValidator(values.cost),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0, "maximum": MOST_UNITS}, {"const": "reserve"}]}
    ),
]
Scope = Literal["account", "key"]


def _read_by(reader: Callable[[str], object]) -> AfterValidator:
    """A validator that returns a string unchanged if `reader` accepts it."""

    def validate(text: str) -> str:
        reader(text)
        return text

    return AfterValidator(validate)


def _like(pattern: str, *examples: str) -> Any:
    """Pattern and examples, for editors, of a string that a reader validates."""
    return Field(json_schema_extra={"pattern": pattern, "examples": list(examples)})


Rate = Annotated[str, _read_by(values.rate), _like(values.RATE_PATTERN, "5/s", "100/min")]
Quota = Annotated[str, _read_by(values.quota), _like(values.QUOTA_PATTERN, "1000/month")]
Percent = Annotated[str, _read_by(values.percent), _like(values.PERCENT_PATTERN, "80%")]
Share = Annotated[str, _read_by(values.share), _like(values.SHARE_PATTERN, "40%")]
Rollover = Annotated[str, _read_by(values.rollover), _like(values.ROLLOVER_PATTERN, "up to 20%")]
MaxWait = Annotated[str, _read_by(values.max_wait), _like(values.WAIT_PATTERN, "2s", "500ms")]
Lasts = Annotated[
    str | int,
    PlainValidator(values.lasts),
    WithJsonSchema({"type": "string", "pattern": values.LASTS_PATTERN, "examples": ["cycle"]}),
]
Enforce = Annotated[
    Literal["shadow"],
    Field(description="The limit counts and reports, but refuses nothing."),
]
Match = Annotated[str, _like(route_patterns.PATTERN, "POST /v1/items", "/v1/**")]
_Url = Annotated[str, Field(pattern=r"^https?://[!-~]+$")]
Link = Annotated[_Url, _read_by(values.link)]
PackLink = Annotated[_Url, _read_by(values.pack_link)]
Webhook = Annotated[
    str,
    _read_by(values.webhook),
    _like(r"^https?://[!-~]{1,2000}$", "https://acme.example/hook"),
]
Day = Annotated[
    date, PlainValidator(values.day), WithJsonSchema({"type": "string", "format": "date"})
]
Refund = Annotated[
    str,
    PlainValidator(values.refund),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [*sorted(REFUNDABLE), "4xx", "5xx"]},
                {"type": "integer", "minimum": 400, "maximum": 599},
                {"type": "string", "pattern": values.STATUS_PATTERN},
            ]
        }
    ),
]


class MeterModel(Strict):
    """A meter: what is counted."""

    unit: str = Field(
        pattern=r"^[a-z][a-z ]{0,31}$",
        description="Name of one unit, in the singular, like request.",
    )
    reserve: ReserveModel | None = None
    settle: SettleModel | None = None


class RouteModel(Strict):
    """A route: which requests match, their class and their cost. The first match applies."""

    id: Id
    match: Match = Field(
        description="METHOD /path, or /path for every method; * and ** are wildcards."
    )
    request_class: Literal["critical", "standard", "deferrable"] = Field("standard", alias="class")
    needs: tuple[Id, ...] = Field((), description="Features that the plan must have.")
    cost: dict[Id, Cost] = Field(
        default={"requests": 1},
        description="Units per meter, or reserve for the estimate. {} costs nothing.",
    )
    ask_usage: bool = Field(
        default=False,
        strict=True,
        description="Ask APIs in the style of OpenAI for the usage of streams whose client does "
        "not ask, and hide it from the client.",
    )


class LimitModel(Strict):
    """A rate (token bucket), a quota (units per period), or a number of requests in flight."""

    # `limit_kinds` checks which keys go together.
    model_config = ConfigDict(json_schema_extra=limit_kinds.add_rules_to_schema)

    id: Id
    meter: Id | None = Field(None, description="Meter that a rate or quota counts.")
    rate: Rate | None = None
    burst: int | None = Field(
        None, ge=1, strict=True, description="Bucket size. Default: the units of the rate."
    )
    quota: Quota | None = None
    at: dict[Percent, Literal["notice", "overage", "reject"]] | None = Field(
        None, description="Percentage of the quota → what happens there."
    )
    rollover: Rollover | None = Field(
        None, description="Largest part of the quota that is carried into the next period."
    )
    concurrency: int | None = Field(
        None, ge=1, le=1_000_000, strict=True, description="Requests that may be in flight."
    )
    max_wait: MaxWait | None = Field(
        None, description="Longest time that a request waits until it fits, before it is refused."
    )
    enforce: Enforce | None = None
    per: Scope = Field(
        "account", description="Whether the limit applies per account, or per API key."
    )


class PackModel(Strict):
    """A pack: extra units for one quota, for a limited time."""

    meter: Id
    limit: Id | None = Field(
        None, description="ID of the quota. Not needed if the meter has one quota."
    )
    units: int = Field(ge=1, le=values.MAX_UNITS, strict=True)
    lasts: Lasts = Field(
        description="End of a period of the account, a duration, or the last day (UTC)."
    )
    price: str = Field("", pattern=r"^[ -~]{0,64}$", description="Price, for people.")
    priority: int = Field(
        0, ge=-100, le=100, strict=True, description="Packs with a lower priority are used first."
    )


class GuardModel(Strict):
    """The token bucket that limits requests to critical routes, against abuse."""

    rate: Rate = "1000/s"
    burst: int | None = Field(None, ge=1, strict=True)


class PlanModel(Strict):
    """A plan: what is sold."""

    extends: Id | None = Field(None, description="Plan to inherit from.")
    features: tuple[Id, ...] | None = None
    limits: tuple[LimitModel, ...] = Field(
        (), description="Merged with the limits of the parent, by id."
    )
    critical: GuardModel | None = None
    when_store_is_down: Literal["local", "allow", "deny"] | None = Field(
        None,
        description="What happens to requests while Redis is unavailable: each sidecar enforces "
        "its local share of each limit (local, the default), allows all (allow) or refuses all "
        "(deny). Requests to critical routes are always allowed.",
    )
    refund: tuple[Refund, ...] | None = Field(
        None,
        description="Outcomes that refund the cost of the request, also statuses of the API: 429, "
        "upstream_4xx.",
    )
    when_sidecar_dies: Literal["charge", "release"] | None = Field(
        None, description="Whether to charge requests that were in flight when their sidecar died."
    )
    enforce: Enforce | None = None
    tunnels_at_quota: Literal["keep", "close"] | None = Field(
        None,
        description="What happens to open WebSockets when one of their quotas is used up. "
        "Default: keep. WebSockets of critical routes always stay open.",
    )


class LinksModel(Strict):
    """Links in refusals."""

    upgrade: Link | None = None
    docs: Link | None = None
    packs: PackLink | None = Field(
        None,
        description="Page that sells packs. {pack} is replaced by the id of the pack.",
    )


class AnonymousModel(Strict):
    """Requests without an API key: one account per client address."""

    plan: Id
    per: Literal["address"] = "address"


class TeamModel(Strict):
    """A team: a part of an account, with a guaranteed share of each quota of the account."""

    share: Share
    lend: bool = Field(
        True,
        strict=True,
        description="Whether others may use what the team leaves unused as time passes.",
    )


def _expand_share(value: object) -> object:
    """Turn the short form `40%` into `{share: 40%}`."""
    return {"share": value} if isinstance(value, str) and values.share(value) else value


Teams = dict[
    Id,
    Annotated[
        TeamModel,
        BeforeValidator(_expand_share, json_schema_input_type=Share | TeamModel),
    ],
]


class KeyModel(Strict):
    """An API key, by its SHA-256."""

    id: Id
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    team: Id | None = Field(None, description="Team of the account.")


class ThenModel(Strict):
    """A move of an account to another plan, on a day."""

    plan: Id
    day: Day = Field(
        alias="from", description="First day on the plan, in the time zone of the account."
    )


class AccountModel(Strict):
    """An account: the party that pays."""

    id: AccountId
    plan: Id
    anchor: Day | None = Field(None, description="Billing anchor: a day on which a cycle starts.")
    timezone: str = "UTC"
    status: Literal["active", "suspended"] = "active"
    then: ThenModel | None = Field(None, description="Plan to move to, and from which day.")
    teams: Teams = Field(default={}, description="Team → its guaranteed share of each quota.")
    webhook: Webhook | None = Field(
        None, description="URL that receives a POST when a deferred job ends."
    )
    keys: tuple[KeyModel, ...] = ()


class FileModel(Strict):
    """A plan file."""

    version: Literal[1]
    meters: dict[Id, MeterModel] = Field(min_length=1)
    routes: tuple[RouteModel, ...] = Field(min_length=1)
    plans: dict[Id, PlanModel] = Field(
        min_length=1, description="Plans, from the lowest to the highest."
    )
    links: LinksModel = LinksModel()
    packs: dict[Id, PackModel] = Field(default={})
    anonymous: AnonymousModel | None = None
    downgrades: Literal["at_once", "at_period_end"] = Field(
        "at_once",
        description="When sidecar accounts move applies a lower plan, without --when.",
    )
    accounts: tuple[AccountModel, ...] = ()
