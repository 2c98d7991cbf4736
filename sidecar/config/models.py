"""The plan file's shape. Validated here, compiled elsewhere, never seen by a request."""

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
from sidecar.core.json_path import PATTERN
from sidecar.core.model import MOST_UNITS
from sidecar.core.settlement import Refundable

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
    """Keeps a text as it is written, if `reader` can read it."""

    def same(text: str) -> str:
        reader(text)
        return text

    return AfterValidator(same)


def _like(pattern: str, *examples: str) -> Any:
    """What editors are told of a text that has a reader of its own."""
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
    Field(description="Decided, counted and reported, but nothing is refused."),
]
Match = Annotated[str, _like(route_patterns.PATTERN, "POST /v1/items", "/v1/**")]
Day = Annotated[
    date, PlainValidator(values.day), WithJsonSchema({"type": "string", "format": "date"})
]
Json = Annotated[
    str,
    AfterValidator(values.json_path),
    Field(
        description="A path into the JSON: names joined by dots, numbers for arrays.",
        json_schema_extra={"pattern": PATTERN, "examples": ["usage.total_tokens"]},
    ),
]


class Strict(BaseModel):
    """Unknown keys are refused: a misspelt limit must not be no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)


HeaderName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$",
        description="A header field that holds a whole number.",
        json_schema_extra={"examples": ["X-Credits"]},
    ),
]
_WAYS: Final = "has to say in one way where the cost is told; write one of"


class ReserveModel(Strict):
    """Where a request tells an estimate of its cost: in its JSON, or in a header field."""

    path: Json | None = Field(None, alias="json")
    header: HeaderName | None = None
    default: int = Field(
        ge=0, le=MOST_UNITS, strict=True, description="Units, where the request does not tell."
    )
    max_bytes: int = Field(
        262_144, ge=1, le=1 << 20, strict=True, description="The largest body that is held to look."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.path is None) == (self.header is None):
            raise ValueError(f"{_WAYS} json: max_tokens, header: X-Credits")
        if self.header is not None and "max_bytes" in self.model_fields_set:
            raise ValueError("max_bytes is for json: no body is held for a header; remove it")
        return self


class SettleModel(Strict):
    """Where the real cost is told: in the response's JSON (or the last SSE data that has it), in a
    header field of it, or by how many bytes of body there were."""

    path: Json | None = Field(None, alias="json")
    header: HeaderName | None = None
    size: Literal["request", "response", "both"] | None = Field(None, alias="bytes")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(way is not None for way in (self.path, self.header, self.size)) != 1:
            raise ValueError(f"{_WAYS} json: usage.total_tokens, header: X-Credits, bytes: both")
        return self


class MeterModel(Strict):
    """What is counted."""

    unit: str = Field(pattern=r"^[a-z][a-z ]{0,31}$", description="Singular, like request.")
    reserve: ReserveModel | None = None
    settle: SettleModel | None = None


class RouteModel(Strict):
    """Which calls it is about, how much they matter and what they cost. First match wins."""

    id: Id
    match: Match = Field(
        description="METHOD /path, or /path for every method; * and ** as wildcards"
    )
    request_class: Literal["critical", "standard", "deferrable"] = Field("standard", alias="class")
    needs: tuple[Id, ...] = Field((), description="Features that the plan must have.")
    cost: dict[Id, Cost] = Field(
        default={"requests": 1},
        description="Units per meter, or reserve: as the request tells. {} costs nothing.",
    )


class LimitModel(Strict):
    """A rate (token bucket), a quota (units per period), or how many calls at once."""

    # Which keys go together is for `kinds` to say.
    model_config = ConfigDict(json_schema_extra=limit_kinds.schema)

    id: Id
    meter: Id | None = Field(None, description="What a rate or quota counts.")
    rate: Rate | None = None
    burst: int | None = Field(None, ge=1, strict=True, description="Default: the rate's units.")
    quota: Quota | None = None
    at: dict[Percent, Literal["notice", "overage", "reject"]] | None = Field(
        None, description="What happens at a percentage of the quota."
    )
    rollover: Rollover | None = Field(
        None, description="How much of a quota is carried into the next period, if it is left."
    )
    concurrency: int | None = Field(
        None, ge=1, le=1_000_000, strict=True, description="How many calls may be in flight."
    )
    max_wait: MaxWait | None = Field(
        None, description="How long a call may be held until it fits, instead of being refused."
    )
    enforce: Enforce | None = None
    per: Scope = Field("account", description="Counted per account, or per key of it.")


class PackModel(Strict):
    """Extra units for one quota, for a while."""

    meter: Id
    limit: Id | None = Field(
        None, description="The quota that it is for; not needed when the meter has one."
    )
    units: int = Field(ge=1, le=values.MAX_UNITS, strict=True)
    lasts: Lasts = Field(
        description="To the end of a period of the account, for a while, or through a day (UTC)."
    )
    price: str = Field("", pattern=r"^[ -~]{0,64}$", description="For people.")
    priority: int = Field(0, ge=-100, le=100, strict=True, description="Lower ones are used first.")


class GuardModel(Strict):
    """The bucket that keeps critical calls from being abused."""

    rate: Rate = "1000/s"
    burst: int | None = Field(None, ge=1, strict=True)


class PlanModel(Strict):
    """What is sold."""

    extends: Id | None = Field(None, description="A plan to inherit from.")
    features: tuple[Id, ...] | None = None
    limits: tuple[LimitModel, ...] = Field((), description="Merged with the parent's by id.")
    critical: GuardModel | None = None
    when_store_is_down: Literal["local", "allow", "deny"] | None = Field(
        None,
        description="What becomes of calls while Redis is gone: they pass within this sidecar's "
        "share of each limit (local, the default), pass (allow), or are refused (deny). Critical "
        "ones always pass.",
    )
    refund: tuple[Refundable, ...] | None = Field(
        None, description="Outcomes that cost the customer nothing."
    )
    when_sidecar_dies: Literal["charge", "release"] | None = Field(
        None, description="What becomes of calls whose sidecar died before they ended."
    )
    enforce: Enforce | None = None
    tunnels_at_quota: Literal["keep", "close"] | None = Field(
        None,
        description="What becomes of open WebSockets when a quota of theirs is spent. "
        "Default: keep. Those of critical routes are always kept.",
    )


class LinksModel(Strict):
    """Addresses that refusals point at."""

    upgrade: str | None = Field(None, pattern=r"^https?://[!-~]+$")
    docs: str | None = Field(None, pattern=r"^https?://[!-~]+$")
    packs: str | None = Field(
        None,
        pattern=r"^https?://[!-~]+$",
        description="Where packs are bought; {pack} stands for the id of one.",
    )


class AnonymousModel(Strict):
    """Calls without a credential: one account per client address."""

    plan: Id
    per: Literal["address"] = "address"


class TeamModel(Strict):
    """A part of an account, with a guaranteed share of each of its quotas."""

    share: Share
    lend: bool = Field(
        True,
        strict=True,
        description="Others may use what the team leaves of its share as time passes.",
    )


def _spelled_out(given: object) -> object:
    """`40%` is `{share: 40%}`."""
    return {"share": given} if isinstance(given, str) and values.share(given) else given


Teams = dict[
    Id,
    Annotated[
        TeamModel,
        BeforeValidator(_spelled_out, json_schema_input_type=Share | TeamModel),
    ],
]


class KeyModel(Strict):
    """A credential, by its SHA-256."""

    id: Id
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    team: Id | None = Field(None, description="One of the account's teams.")


class ThenModel(Strict):
    """Where an account moves, and when."""

    plan: Id
    day: Day = Field(alias="from", description="The day, in the account's time zone.")


class AccountModel(Strict):
    """Who pays."""

    id: AccountId
    plan: Id
    anchor: Day | None = Field(None, description="A day on which a billing cycle starts.")
    timezone: str = "UTC"
    status: Literal["active", "suspended"] = "active"
    then: ThenModel | None = Field(None, description="The plan that it moves to, and from when.")
    teams: Teams = Field(default={}, description="Team → the share that is guaranteed to it.")
    webhook: str | None = Field(
        None, pattern=r"^https?://[!-~]{1,2000}$", description="Is told how deferred jobs end."
    )
    keys: tuple[KeyModel, ...] = ()


class FileModel(Strict):
    """A plan file."""

    version: Literal[1]
    meters: dict[Id, MeterModel] = Field(min_length=1)
    routes: tuple[RouteModel, ...] = Field(min_length=1)
    plans: dict[Id, PlanModel] = Field(min_length=1, description="In the order of the ladder.")
    links: LinksModel = LinksModel()
    packs: dict[Id, PackModel] = Field(default={})
    anonymous: AnonymousModel | None = None
    downgrades: Literal["at_once", "at_period_end"] = Field(
        "at_once",
        description="When sidecar accounts move brings an account to a lower plan, unless told.",
    )
    accounts: tuple[AccountModel, ...] = ()
