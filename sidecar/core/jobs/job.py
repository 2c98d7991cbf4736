"""Deferred jobs: the stored request, the states of a job, and when it may run.

A job waits until its account's limits allow it, runs, and ends. Instants are µs of Redis time.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from sidecar.core.kinds import MICRO

Delivery = Literal["at-least-once", "at-most-once"]
Field = tuple[bytes, bytes]  # lower-case name, whole line

MAX_TRIES: Final = 5  # of a job whose sidecars die: the job itself may kill them
RECHECK_US: Final = 300 * MICRO  # finds free capacity that no event has announced
UNSENT_RETRY_US: Final = 5 * MICRO  # the upstream or Redis was unavailable


class JobState(StrEnum):
    """State of a job; a label value of metrics."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"  # the upstream responded, with any status
    FAILED = "failed"
    CANCELLED = "cancelled"  # by its account, before it ran

    @property
    def is_open(self) -> bool:
        """Whether the job has not ended."""
        return self in (JobState.WAITING, JobState.RUNNING)


class JobFailure(StrEnum):
    """Reasons of failed jobs, beside the reasons of refusals and of outcomes."""

    EXPIRED = "expired"  # it was open for the maximum age
    LOST = "lost"  # its sidecar died while it ran, and it may not run again
    KEY_REVOKED = "key-revoked"
    NEVER_FITS = "never-fits"  # it costs more than a limit ever allows


@dataclass(frozen=True, slots=True)
class JobRequest:
    """The stored request, without credentials."""

    method: str
    target: bytes
    host: bytes
    address: str  # of the client
    fields: tuple[Field, ...]
    body: bytes
    content_type: bytes = b""
    content_encoding: bytes = b""


@dataclass(frozen=True, slots=True)
class JobResult:
    """The upstream's response. `truncated`: the body was longer than the stored part."""

    status: int
    fields: tuple[Field, ...] = ()
    body: bytes = b""
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One stored job.

    `digest` is the SHA-256 of its API key. An ended job has no request, an open job no result.
    """

    id: str
    account: str
    key: str  # ID of its API key
    digest: bytes
    delivery: Delivery
    method: str
    target: bytes
    accepted_us: int = 0
    state: JobState = JobState.WAITING
    tries: int = 0
    started_us: int = 0
    ended_us: int = 0
    reason: str = ""
    request: JobRequest | None = None
    result: JobResult | None = None
    result_dropped: bool = False  # to make room for other jobs


class IdempotencyKey(NamedTuple):
    """Digests of an Idempotency-Key (with its API key) and of the request that it was sent with."""

    digest: str
    request_digest: str


class AcceptedJob(NamedTuple):
    """The job of a request. `existing`: an earlier request with the same key has created it."""

    job_id: str
    existing: bool = False


class JobRefusal(StrEnum):
    """Why a request did not become a job."""

    FULL = "full"  # the account's job queue
    ALL_FULL = "all-full"  # the job queues of all accounts together
    FULL_BYTES = "full-bytes"  # the bytes of the account's jobs
    ALL_FULL_BYTES = "all-full-bytes"  # the bytes of the jobs of all accounts together
    TOO_LARGE = "too-large"  # larger than all jobs of an account together may be
    OTHER_REQUEST = "other-request"  # its Idempotency-Key belongs to another request


class JobStatus(NamedTuple):
    """A job and its position among the account's open jobs, from 1; 0 for an ended job."""

    job: Job
    position: int


class ClaimedJob(NamedTuple):
    """A job with a job lease. `orphan`: it ran before, and its sidecar died."""

    job: Job
    orphan: bool


class Postponed(NamedTuple):
    """The job cannot run now; `retry_us` is the span until the next try."""

    retry_us: int


class JobOutcome(NamedTuple):
    """Final state of a job, with the reason and the stored response."""

    state: JobState
    reason: str
    result: JobResult | None = None


def may_run(claimed: ClaimedJob) -> bool:
    """Whether a claimed job may run.

    An orphan runs again only with at-least-once delivery, up to `MAX_TRIES` times.
    """
    job = claimed.job
    if not claimed.orphan:
        return True
    return job.delivery == "at-least-once" and job.tries <= MAX_TRIES


def next_check_us(retry_us: int) -> int:
    """Return the span until an account's first job is tried again.

    Most changes of limits wake the account; `RECHECK_US` bounds the delay of the others.
    """
    return max(0, min(retry_us, RECHECK_US))
