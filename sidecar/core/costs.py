"""What is counted, and where it is told what a call costs. Nouns."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from sidecar.core.json_path import JsonPath


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
class HeaderSource:
    """A cost is what this header field says: a whole number. The name is in lower case."""

    name: bytes


@dataclass(frozen=True, slots=True)
class BodySize:
    """A cost is how many bytes of body there were: of the request, the response or both."""

    of: Literal["request", "response", "both"]


Source = JsonPath | HeaderSource | BodySize  # where a cost is told


@dataclass(frozen=True, slots=True)
class Reserve:
    """Where a request tells an estimate of its cost: a path into its JSON, or a header field.

    `default` units stand when it cannot be read; `bound` is the largest body, in bytes, that
    is held back to look; 0 for a header field.
    """

    path: JsonPath | HeaderSource
    default: int
    bound: int


@dataclass(frozen=True, slots=True)
class Meter:
    """What is counted. `settle` is where the response tells the real cost."""

    id: str
    unit: str  # singular: "request"
    reserve: Reserve | None = None
    settle: Source | None = None
