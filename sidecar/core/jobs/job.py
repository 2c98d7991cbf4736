"""Deferred jobs: what is kept of a call that runs later, its states, and what may become of it.

A job waits until its account's limits allow it, runs, and ends. Instants are µs of Redis time.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from sidecar.core.model import MICRO

Delivery = Literal["at-least-once", "at-most-once"]
Field = tuple[bytes, bytes]  # lower-case name, whole line

MOST_TRIES: Final = 5  # of a job whose sidecars die: it may be what kills them
LOOK_AGAIN_US: Final = 300 * MICRO  # what makes room and nobody tells of is found so soon
UNSENT_RETRY_US: Final = 5 * MICRO  # nothing could be sent: the API or Redis is away


class JobState(StrEnum):
    """Where a job is. A finite set: metrics use it as a label."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"  # the API answered, whatever it said
    FAILED = "failed"
    CANCELLED = "cancelled"  # by its account, before it ran

    @property
    def is_open(self) -> bool:
        """Whether more will happen to it."""
        return self in (JobState.WAITING, JobState.RUNNING)


class JobEnd(StrEnum):
    """Why a job failed that no refusal and no outcome of a call explains."""

    EXPIRED = "expired"  # it waited for as long as jobs may
    LOST = "lost"  # its sidecar died while it ran, and it may not run again
    KEY_REVOKED = "key-revoked"
    NEVER_FITS = "never-fits"  # it costs more than a limit ever allows


@dataclass(frozen=True, slots=True)
class JobCall:
    """The call itself, without credentials. `digest` is the key's fingerprint, as Redis has it."""

    method: str
    target: bytes
    host: bytes
    address: str  # of the client
    fields: tuple[Field, ...]
    body: bytes
    content_type: bytes = b""
    content_encoding: bytes = b""


@dataclass(frozen=True, slots=True)
class Result:
    """What the API answered. `truncated`: the body was longer than is kept."""

    status: int
    fields: tuple[Field, ...] = ()
    body: bytes = b""
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it is kept. `call` is None once it has ended, `result` until it has."""

    id: str
    account: str
    key: str  # its id
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
    call: JobCall | None = None
    result: Result | None = None


class Once(NamedTuple):
    """An Idempotency-Key: `name` says whose and which, `print` what call it was for. Digests."""

    name: str
    print: str


class Accepted(NamedTuple):
    """The job that stands for a call: a new one, or one that was there (`known`)."""

    job_id: str
    known: bool = False


class NotAccepted(StrEnum):
    """Why no job was made of a call."""

    FULL = "full"  # the account's queue
    ALL_FULL = "all-full"  # that of all accounts
    OTHER_CALL = "other-call"  # the Idempotency-Key was used for another one


class JobStatus(NamedTuple):
    """A job as it stands. `position`: 1 for the account's first that has not ended; 0: ended."""

    job: Job
    position: int


class Claimed(NamedTuple):
    """A job that is one's own for as long as its lease is renewed. `orphan`: it ran before, and
    its sidecar died."""

    job: Job
    orphan: bool


class NotNow(NamedTuple):
    """The job does not fit yet; `retry_us`: a span after which it may."""

    retry_us: int


class Over(NamedTuple):
    """The job will never run, or has run: how it ends."""

    state: JobState
    reason: str
    result: Result | None = None


def may_run(claimed: Claimed) -> bool:
    """Whether a claimed job is run: an orphan only if it may run more than once, and not for
    ever."""
    job = claimed.job
    if not claimed.orphan:
        return True
    return job.delivery == "at-least-once" and job.tries <= MOST_TRIES


def next_look_us(retry_us: int) -> int:
    """After which span an account's first job is tried again. What changes its limits is mostly
    told at once; the rest is found by looking."""
    return max(0, min(retry_us, LOOK_AGAIN_US))
