"""Bounds on jobs, and the Redis keys of one workload's jobs."""

from dataclasses import dataclass
from typing import Final

from sidecar.core.kinds import MICRO
from sidecar.stores import keys

OVERHEAD: Final = 3_072  # bytes that Redis needs for a job beside its names and values


@dataclass(frozen=True, slots=True)
class JobTerms:
    """Bounds on the number, size, age and rate of jobs. Spans in seconds, sizes in bytes.

    `changes_per_minute`: of the jobs of an account; 0: no limit.
    """

    per_account: int = 1_000
    in_all: int = 10_000
    bytes_per_account: int = 16 << 20
    bytes_in_all: int = 256 << 20
    changes_per_minute: int = 1_200
    max_age_s: int = 40 * 86_400
    result_ttl_s: int = 86_400
    lease_s: float = 30.0
    webhooks: bool = False  # ended jobs have webhooks

    @property
    def lease_ms(self) -> int:
        """Span of a job lease, in milliseconds."""
        return int(self.lease_s * 1000)

    @property
    def kept_us(self) -> int:
        """Time to live of an ended job, in µs."""
        return self.result_ttl_s * MICRO

    @property
    def ttl_ms(self) -> int:
        """Time to live of a Redis key after a write, in milliseconds."""
        return (self.max_age_s + self.result_ttl_s) * 1000


class JobNames:
    """The Redis keys of a workload's jobs.

    Those of an account are in its slot, those of all accounts together in another.
    """

    def __init__(self, prefix: str, workload: str) -> None:
        self._prefix = prefix
        self._workload = workload
        self.open, self.running, self.accounts, self.webhooks, self.sizes, self.ended = (
            keys.jobs_of_all(prefix, workload, what)
            for what in ("open", "running", "accounts", "webhooks", "sizes", "ended")
        )

    def queue(self, account_id: str) -> str:
        """The account's job queue."""
        return keys.job_queue(self._prefix, account_id, self._workload)

    def records(self, account_id: str) -> str:
        """The prefix of the account's records; the job ID follows."""
        return keys.job_records(self._prefix, account_id, self._workload)

    def stored(self, account_id: str) -> tuple[str, str]:
        """The sizes of the account's jobs, and its ended jobs."""
        return (
            keys.jobs_of_account(self._prefix, account_id, self._workload, "sizes"),
            keys.jobs_of_account(self._prefix, account_id, self._workload, "ended"),
        )

    def rate(self, account_id: str) -> str:
        """The account's rate of changes."""
        return keys.jobs_of_account(self._prefix, account_id, self._workload, "rate")

    def idempotency(self, account_id: str, digest: str) -> str:
        """The job of an Idempotency-Key."""
        return keys.job_idempotency(self._prefix, account_id, self._workload, digest)


def member_of(job_id: str, account_id: str) -> str:
    """A job among those of all accounts: "id/account"."""
    return f"{job_id}/{account_id}"


def split_member(member: bytes) -> tuple[str, str]:
    """Return the ID and the account of "id/account"."""
    job_id, _, account = member.decode().partition("/")
    return job_id, account
