"""What the clients saw: how each call ended, by its request id, and what no client may see."""

from collections import Counter
from enum import StrEnum
from typing import Final, NamedTuple

from loadtests.soak.client import Answer


class End(StrEnum):
    """How a call ended, as its client saw it."""

    ANSWERED = "answered"  # whole, by the API
    CUT = "cut"  # begun by the API, not whole
    FAILED = "failed"  # the sidecar told that the API failed
    REFUSED = "refused"  # by the sidecar, which never asked the API
    UNSURE = "unsure"  # 503: refused without a store, or no connection to the API became free


class Result(NamedTuple):
    """`told`: the answer said what is left, so it was not given blindly."""

    end: End
    status: int
    told: bool


API_FAILED: Final = frozenset({502, 504})


class Observations:
    """Written by all clients of a run.

    `without_answer` counts the calls of an account that may have been charged though no event
    tells of them, should the connection to the store have been lost meanwhile.
    """

    def __init__(self) -> None:
        self.seen: dict[str, Result] = {}
        self.counts: Counter[str] = Counter()
        self.violations: Counter[str] = Counter()
        self.without_answer: Counter[str] = Counter()

    @property
    def calls(self) -> int:
        """Answers of all kinds."""
        return len(self.seen)

    def note(self, answer: Answer, account: str) -> End:
        """One more answer."""
        end = _end(answer)
        self.counts[end] += 1
        if end is End.UNSURE:
            self.without_answer[account] += 1
        if answer.ours and answer.status == 500:
            self.violations["the sidecar answered 500"] += 1
        if answer.ours and not answer.whole:
            self.violations["an answer of the sidecar's own was cut"] += 1
        if not answer.id:
            self.violations[f"an answer with status {answer.status} has no X-Request-Id"] += 1
        elif answer.id in self.seen:
            self.violations["two answers have the same X-Request-Id"] += 1
        self.seen[answer.id] = Result(end, answer.status, b"ratelimit" in answer.fields)
        return end

    def left(self, account: str) -> None:
        """A client went before it had an answer."""
        self.counts["left"] += 1
        self.without_answer[account] += 1

    def violate(self, sentence: str) -> None:
        """Something that may not happen."""
        self.violations[sentence] += 1


def _end(answer: Answer) -> End:
    if not answer.ours:
        return End.ANSWERED if answer.whole else End.CUT
    if answer.status in API_FAILED:
        return End.FAILED
    return End.UNSURE if answer.status == 503 else End.REFUSED
