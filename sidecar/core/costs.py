"""Meters, and where the cost of a request is found."""

from dataclasses import dataclass
from typing import Literal

from sidecar.core.json_cost import Formula, JsonCost
from sidecar.core.json_path import JsonPath
from sidecar.core.unreadable import Unreadable

__all__ = ["BodySize", "HeaderSource", "Meter", "Reserve", "Source", "Unreadable"]


@dataclass(frozen=True, slots=True)
class HeaderSource:
    """The cost is a header field's value, an integer. `name` is in lower case."""

    name: bytes


@dataclass(frozen=True, slots=True)
class BodySize:
    """The cost is the size of the body in bytes: of the request, the response or both."""

    of: Literal["request", "response", "both"]


Source = JsonPath | JsonCost | HeaderSource | BodySize  # where a cost is found


@dataclass(frozen=True, slots=True)
class Reserve:
    """Where a request contains an estimate of its cost: in its JSON, or a header field.

    `default` units are reserved if it cannot be read, and at least `least`. `bound`: the largest
    body, in bytes, that is read before it is forwarded; 0 for a header field.
    """

    path: JsonPath | Formula | HeaderSource
    default: int
    bound: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class Meter:
    """What is counted. `settle`: where the response contains the actual cost; `most`: its bound."""

    id: str
    unit: str  # singular: "request"
    reserve: Reserve | None = None
    settle: Source | None = None
    most: int | None = None  # that one request may settle
