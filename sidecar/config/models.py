"""The plan file's shape. Validated here, compiled elsewhere, never seen by a request."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from sidecar.config import values
from sidecar.core.json_path import PATTERN
from sidecar.core.model import MOST_UNITS

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


def _is_rate(text: str) -> str:
    values.rate(text)
    return text


def _is_quota(text: str) -> str:
    values.quota(text)
    return text


Rate = Annotated[str, AfterValidator(_is_rate), Field(examples=["5/s", "100/min"])]
Quota = Annotated[str, AfterValidator(_is_quota), Field(examples=["1000/month"])]
Json = Annotated[
    str,
    AfterValidator(values.json_path),
    Field(
        alias="json",
        description="A path into the JSON: names joined by dots, numbers for arrays.",
        json_schema_extra={"pattern": PATTERN, "examples": ["usage.total_tokens"]},
    ),
]


class Strict(BaseModel):
    """Unknown keys are refused: a misspelt limit must not be no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ReserveModel(Strict):
    """Where a request's JSON tells an estimate of its cost."""

    path: Json
    default: int = Field(
        ge=0, le=MOST_UNITS, strict=True, description="Units, where the request does not tell."
    )
    max_bytes: int = Field(
        262_144, ge=1, le=1 << 20, strict=True, description="The largest body that is held to look."
    )


class SettleModel(Strict):
    """Where the response tells the real cost: its JSON, or the last SSE data that has it."""

    path: Json


class MeterModel(Strict):
    """What is counted."""

    unit: str = Field(pattern=r"^[a-z][a-z ]{0,31}$", description="Singular, like request.")
    reserve: ReserveModel | None = None
    settle: SettleModel | None = None


class RouteModel(Strict):
    """Which calls it is about, how much they matter and what they cost. First match wins."""

    id: Id
    match: str = Field(description="METHOD /path, or /path for every method; * and ** as wildcards")
    call_class: Literal["critical", "standard", "deferrable"] = Field("standard", alias="class")
    needs: tuple[Id, ...] = Field((), description="Features that the plan must have.")
    cost: dict[Id, Cost] = Field(
        default={"requests": 1},
        description="Units per meter, or reserve: as the request tells. {} costs nothing.",
    )


class LimitModel(Strict):
    """A rate (token bucket) or a quota (units per period) on one meter."""

    id: Id
    meter: Id
    rate: Rate | None = None
    burst: int | None = Field(None, ge=1, strict=True, description="Default: the rate's units.")
    quota: Quota | None = None
    at: dict[str, Literal["notice", "overage", "reject"]] | None = Field(
        None, description="What happens at a percentage of the quota."
    )
    per: Scope = Field("account", description="Counted per account, or per key of it.")

    @model_validator(mode="after")
    def _one_kind(self) -> "LimitModel":
        if (self.rate is None) == (self.quota is None):
            raise ValueError("has to be either a rate or a quota; write one of the two")
        if self.rate is None and self.burst is not None:
            raise ValueError("burst belongs to a rate; remove it from this quota")
        if self.quota is None and self.at is not None:
            raise ValueError("at belongs to a quota; remove it from this rate")
        behaviour(self.at)
        return self


def behaviour(at: dict[str, Any] | None) -> tuple[tuple[int, ...], int | None]:
    """(notice percentages, percentage at which calls are refused; None: never).

    Raises ValueError with a remedy.
    """
    steps = {values.percent(text): what for text, what in (at or {}).items()}
    notices = tuple(sorted(p for p, what in steps.items() if what == "notice"))
    overage = [p for p, what in steps.items() if what == "overage"]
    reject = [p for p, what in steps.items() if what == "reject"]
    if overage and overage != [100]:
        raise ValueError("overage begins at 100%; write 100%: overage")
    if len(reject) > 1 or (reject and reject[0] < 100):
        raise ValueError("reject stands once, at 100% or above; lower the quota instead")
    if reject and reject[0] > 100 and not overage:
        raise ValueError("a reject above 100% needs 100%: overage; add it")
    if reject:
        return notices, reject[0]
    return notices, None if overage else 100


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
    when_store_is_down: Literal["allow", "deny"] | None = None
    tunnels_at_quota: Literal["keep", "close"] | None = Field(
        None,
        description="What becomes of open WebSockets when a quota of theirs is spent. "
        "Default: keep. Those of critical routes are always kept.",
    )


class LinksModel(Strict):
    """Addresses that refusals point at."""

    upgrade: str | None = Field(None, pattern=r"^https?://[!-~]+$")
    docs: str | None = Field(None, pattern=r"^https?://[!-~]+$")


class AnonymousModel(Strict):
    """Calls without a credential: one account per client address."""

    plan: Id
    per: Literal["address"] = "address"


class KeyModel(Strict):
    """A credential, by its SHA-256."""

    id: Id
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class AccountModel(Strict):
    """Who pays."""

    id: AccountId
    plan: Id
    anchor: date | None = Field(None, description="A day on which a billing cycle starts.")
    timezone: str = "UTC"
    status: Literal["active", "suspended"] = "active"
    keys: tuple[KeyModel, ...] = ()


class FileModel(Strict):
    """A plan file."""

    version: Literal[1]
    meters: dict[Id, MeterModel] = Field(min_length=1)
    routes: tuple[RouteModel, ...] = Field(min_length=1)
    plans: dict[Id, PlanModel] = Field(min_length=1, description="In the order of the ladder.")
    links: LinksModel = LinksModel()
    anonymous: AnonymousModel | None = None
    accounts: tuple[AccountModel, ...] = ()
