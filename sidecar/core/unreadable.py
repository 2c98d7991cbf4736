"""Why a cost is not known."""

from enum import StrEnum


class Unreadable(StrEnum):
    """Why a cost could not be read. A finite set: metrics may use it as a label."""

    NOT_JSON = "not_json"  # by its type or by its content
    TOO_LARGE = "too_large"  # for the memory or the work that reading may take
    MISSING = "missing"  # nothing, or null, at the path
    NOT_A_NUMBER = "not_a_number"  # not an integer from 0 to 2**53 - 1
    UNDECODABLE = "undecodable"  # an unknown content coding, or a broken one
    TRUNCATED = "truncated"  # the body ended too early
    UNANSWERED = "unanswered"  # without a response to read
