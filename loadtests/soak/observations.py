"""What the clients observed: how each request ended, by its id, and every violation."""

from collections import Counter
from enum import StrEnum
from typing import Final, NamedTuple

from loadtests.soak.client import Answer


class End(StrEnum):
    """How a request ended, as its client saw it."""

    ANSWERED = "answered"  # complete, by the API
    CUT = "cut"  # begun by the API, incomplete
    FAILED = "failed"  # the sidecar reported that the API failed
    REFUSED = "refused"  # by the sidecar, without a request to the API
    UNCERTAIN = "uncertain"  # 503: refused without Redis, or no connection to the API became free


class Result(NamedTuple):
    """The end of a request.

    `has_limits`: the answer had RateLimit fields, so Redis took part in the decision.
    """

    end: End
    status: int
    has_limits: bool


API_FAILED: Final = frozenset({502, 504})


class Observations:
    """The observations of all clients of a run.

    `counts`: how often each kind of end and fault occurred. `without_answer`: requests of an
    account that may have been charged without an event, if a connection to Redis was lost at that
    time.
    """

    def __init__(self) -> None:
        self.results: dict[str, Result] = {}
        self.counts: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self.without_answer: Counter[str] = Counter()

    @property
    def requests(self) -> int:
        """How many answers came, of all kinds."""
        return len(self.results)

    def record(self, answer: Answer, account: str) -> End:
        """Record an answer. Returns how its request ended."""
        end = _end(answer)
        self.counts[end] += 1
        if end is End.UNCERTAIN:
            self.without_answer[account] += 1
        if answer.from_sidecar and answer.status == 500:
            self.violations["the sidecar answered 500"] += 1
        if answer.from_sidecar and not answer.whole:
            self.violations["an answer of the sidecar was incomplete"] += 1
        if not answer.id:
            self.violations[f"an answer with status {answer.status} has no X-Request-Id"] += 1
        elif answer.id in self.results:
            self.violations["two answers have the same X-Request-Id"] += 1
        self.results[answer.id] = Result(end, answer.status, b"ratelimit" in answer.fields)
        return end

    def record_disconnect(self, account: str) -> None:
        """Record that a client disconnected before its answer."""
        self.counts["disconnected"] += 1
        self.without_answer[account] += 1

    def record_violation(self, sentence: str) -> None:
        """Record a violation."""
        self.violations[sentence] += 1


def _end(answer: Answer) -> End:
    if not answer.from_sidecar:
        return End.ANSWERED if answer.whole else End.CUT
    if answer.status in API_FAILED:
        return End.FAILED
    return End.UNCERTAIN if answer.status == 503 else End.REFUSED
