"""The shape of a plan file, as pydantic models. `compile` turns them into a plan book."""

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from sidecar.config import limit_kinds, route_patterns, values
from sidecar.core.json_cost import MOST_CHOICES, PATTERN
from sidecar.core.model import MOST_UNITS, UNBOUNDED
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
Json = Annotated[
    tuple[str, ...],
    PlainValidator(values.formulas),
    WithJsonSchema(
        {
            "description": "Paths into the JSON: names joined by dots, numbers for arrays, # for "
            "the length of one. Terms are added or subtracted; the first sum that is there counts.",
            "examples": ["usage.total_tokens", "usage.input_tokens + usage.output_tokens"],
            "anyOf": [
                {"type": "string", "pattern": PATTERN},
                {
                    "type": "array",
                    "items": {"type": "string", "pattern": PATTERN},
                    "minItems": 1,
                    "maxItems": MOST_CHOICES,
                },
            ],
        }
    ),
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


class Strict(BaseModel):
    """A model that rejects unknown keys: a misspelt limit must not disable the limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)


HeaderName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$",
        description="Header field that contains a whole number.",
        json_schema_extra={"examples": ["X-Credits"]},
    ),
]
MOST_SETTLED: Final = 10_000_000  # units of one request, without `most`
_ONE_SOURCE: Final = "must have exactly one source of the cost; write one of"


class ReserveModel(Strict):
    """Source of a request's estimated cost: its JSON body, or a header field."""

    path: Json | None = Field(None, alias="json")
    header: HeaderName | None = None
    default: int = Field(
        ge=0, le=MOST_UNITS, strict=True, description="Units if the request has no estimate."
    )
    least: int = Field(
        0,
        alias="min",
        ge=0,
        le=MOST_UNITS,
        strict=True,
        description="Least units of an estimate: a client cannot ask for less.",
    )
    max_bytes: int = Field(
        262_144,
        ge=1,
        le=1 << 20,
        strict=True,
        description="Largest body that is read for the estimate, in bytes.",
    )

    @model_validator(mode="after")
    def _require_one_source(self) -> Self:
        if (self.path is None) == (self.header is None):
            raise ValueError(f"{_ONE_SOURCE} json: max_tokens, header: X-Credits")
        if self.default < self.least:
            raise ValueError("default is below min; raise default, or lower min")
        if self.header is not None and "max_bytes" in self.model_fields_set:
            raise ValueError("max_bytes applies to json, not to header; remove it")
        return self


class SettleModel(Strict):
    """Source of a request's actual cost.

    It is the JSON of the response (in a stream, the last document that has it), a header field of
    the response, or the size of a body.
    """

    path: Json | None = Field(None, alias="json")
    stream: Json | None = Field(
        None, description="Paths for the documents of a stream. Default: as json."
    )
    missing: int | None = Field(
        None,
        ge=0,
        le=MOST_UNITS,
        strict=True,
        description="Units if a complete response has none of the paths. Default: the estimate.",
    )
    header: HeaderName | None = None
    size: Literal["request", "response", "both"] | None = Field(None, alias="bytes")
    most: int | None = Field(
        None,
        ge=1,
        le=UNBOUNDED,
        strict=True,
        description="Most units that one request is charged; a higher cost is logged and capped. "
        f"Default: {MOST_SETTLED:_}; of bytes: no bound.",
    )

    @model_validator(mode="after")
    def _require_one_source(self) -> Self:
        if sum(source is not None for source in (self.path, self.header, self.size)) != 1:
            raise ValueError(
                f"{_ONE_SOURCE} json: usage.total_tokens, header: X-Credits, bytes: both"
            )
        if self.path is None and (self.stream is not None or self.missing is not None):
            raise ValueError("stream and missing apply to json; remove them, or add json")
        return self


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
