"""Meters, and where the cost of a request is found."""

from dataclasses import dataclass
from typing import Literal

from sidecar.core.json_cost import Formula, JsonCost
from sidecar.core.json_path import JsonPath
from sidecar.core.unreadable import Unreadable

__all__ = ["BodySize", "Fallback", "HeaderSource", "Meter", "Reserve", "Source", "Unreadable"]


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
    """Where a request contains an estimate of its cost: in its JSON, a header field, its size.

    `default` units are reserved if it cannot be read, and at least `least`. `bound`: the largest
    body, in bytes, that is read before it is forwarded; 0 for a header field. Without a `path`,
    the size alone counts. `greater`: the greater of both counts, and not the sum.
    """

    path: JsonPath | Formula | HeaderSource | None
    default: int
    bound: int
    least: int = 0
    bytes_per_unit: int = 0  # of the body; 0: its size does not count
    greater: bool = False


@dataclass(frozen=True, slots=True)
class Fallback:
    """What is counted of a response that does not have its cost: 0 means not at all.

    The documents of a stream count, else the bytes of the body. Without `at_estimate`, the cost
    may be lower than the estimate of the request, though not than its `least`.
    """

    units_per_event: int = 0
    bytes_per_unit: int = 0
    at_estimate: bool = True

    def units(self, events: int, size: int) -> int:
        """Return the units of a response of which so many documents and bytes have passed."""
        if self.units_per_event and events:
            return self.units_per_event * events
        return units_of(size, self.bytes_per_unit)


def units_of(size: int, bytes_per_unit: int) -> int:
    """Return the units of so many bytes, rounded up; 0 if bytes do not count."""
    return -(-size // bytes_per_unit) if bytes_per_unit else 0


@dataclass(frozen=True, slots=True)
class Meter:
    """What is counted. `settle`: where the response contains the actual cost; `most`: its bound."""

    id: str
    unit: str  # singular: "request"
    reserve: Reserve | None = None
    settle: Source | None = None
    most: int | None = None  # that one request may settle
    fallback: Fallback | None = None  # of `settle`
