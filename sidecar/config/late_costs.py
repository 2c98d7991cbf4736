"""The shape of costs that are known late: in the request, and in the response."""

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from sidecar.config import values
from sidecar.core.json_cost import MOST_CHOICES, PATTERN
from sidecar.core.kinds import MOST_UNITS, UNBOUNDED


class Strict(BaseModel):
    """A model that rejects unknown keys: a misspelt limit must not disable the limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
_BytesPerUnit = Annotated[int, Field(ge=1, le=1 << 30, strict=True)]


class ReserveModel(Strict):
    """Source of a request's estimated cost: its JSON body, a header field, or its size."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["json", "default"]},
                {"required": ["header", "default"]},
                {"required": ["bytes_per_unit"], "properties": {"json": False, "header": False}},
            ],
            "dependentSchemas": {
                "take": {
                    "required": ["bytes_per_unit"],
                    "anyOf": [{"required": ["json"]}, {"required": ["header"]}],
                }
            },
        }
    )

    path: Json | None = Field(None, alias="json")
    header: HeaderName | None = None
    bytes_per_unit: _BytesPerUnit | None = Field(
        None, description="Bytes of the request body that make one unit of the estimate."
    )
    take: Literal["sum", "greater"] = Field(
        "sum", description="Whether the units of the size are added, or the greater of both counts."
    )
    default: int = Field(
        0, ge=0, le=MOST_UNITS, strict=True, description="Units if the request has no estimate."
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
        asked = self.path is not None or self.header is not None
        if (self.path is None) == (self.header is None) and (asked or not self.bytes_per_unit):
            raise ValueError(f"{_ONE_SOURCE} json: max_tokens, header: X-Credits")
        given = self.model_fields_set
        if asked and "default" not in given:
            raise ValueError("default is missing; add default: 1024")
        if "take" in given and not (asked and self.bytes_per_unit):
            raise ValueError(
                "take needs json or header, and bytes_per_unit; add them, or remove it"
            )
        if "default" in given and self.default < self.least:
            raise ValueError("default is below min; raise default, or lower min")
        if self.header is not None and "max_bytes" in given and not self.bytes_per_unit:
            raise ValueError("max_bytes applies to json, not to header; remove it")
        return self


class FallbackModel(Strict):
    """What counts if a response does not have its cost: what has passed of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["units_per_event"]}, {"required": ["bytes_per_unit"]}]
        }
    )

    units_per_event: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        strict=True,
        description="Units per document of a stream: event, line, or item of an array.",
    )
    bytes_per_unit: _BytesPerUnit | None = Field(
        None,
        description="Bytes of the response body that make one unit. With units_per_event: of "
        "bodies that are not streams.",
    )
    at_least: Literal["estimate", "min"] = Field(
        "estimate", description="The least that counts: the estimate, or min of reserve."
    )

    @model_validator(mode="after")
    def _require_a_rate(self) -> Self:
        if self.units_per_event is None and self.bytes_per_unit is None:
            raise ValueError("counts nothing; add units_per_event: 1 or bytes_per_unit: 4")
        return self


class SettleModel(Strict):
    """Source of a request's actual cost.

    It is the JSON of the response (in a stream, the last document that has it), a header field of
    the response, or the size of a body.
    """

    model_config = ConfigDict(
        json_schema_extra={"dependentSchemas": {"else": {"properties": {"bytes": False}}}}
    )

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
    fallback: FallbackModel | None = Field(
        None,
        alias="else",
        description="What counts if the response does not have its cost. Default: the estimate.",
    )
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
        if self.size is not None and self.fallback is not None:
            raise ValueError("else applies to json and header: bytes are always known; remove it")
        return self
