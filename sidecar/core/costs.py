"""Meters, and where the cost of a request is found."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from sidecar.core.json_path import JsonPath


class Unreadable(StrEnum):
    """Why a cost could not be read. A finite set: metrics may use it as a label."""

    NOT_JSON = "not_json"  # by its type or by its content
    TOO_LARGE = "too_large"  # for the memory or the work that reading may take
    MISSING = "missing"  # nothing, or null, at the path
    NOT_A_NUMBER = "not_a_number"  # not an integer from 0 to 2**53 - 1
    UNDECODABLE = "undecodable"  # an unknown content coding, or a broken one
    TRUNCATED = "truncated"  # the body ended too early
    UNANSWERED = "unanswered"  # without a response to read


@dataclass(frozen=True, slots=True)
class HeaderSource:
    """The cost is a header field's value, an integer. `name` is in lower case."""

    name: bytes


@dataclass(frozen=True, slots=True)
class BodySize:
    """The cost is the size of the body in bytes: of the request, the response or both."""

    of: Literal["request", "response", "both"]


Source = JsonPath | HeaderSource | BodySize  # where a cost is found


@dataclass(frozen=True, slots=True)
class Reserve:
    """Where a request contains an estimate of its cost: a path into its JSON, or a header field.

    `default` units are reserved if it cannot be read. `bound`: the largest body, in bytes, that is
    read before it is forwarded; 0 for a header field.
    """

    path: JsonPath | HeaderSource
    default: int
    bound: int


@dataclass(frozen=True, slots=True)
class Meter:
    """What is counted. `settle`: where the response contains the actual cost; `most`: its bound."""

    id: str
    unit: str  # singular: "request"
    reserve: Reserve | None = None
    settle: Source | None = None
    most: int | None = None  # that one request may settle
