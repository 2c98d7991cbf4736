"""Protocols of the gate's collaborators. `tests/contracts/` checks the adapters."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from sidecar.core.answers import Answer, Hold
from sidecar.core.jobs.job import (
    AcceptedJob,
    ClaimedJob,
    IdempotencyKey,
    Job,
    JobOutcome,
    JobRefusal,
    JobState,
    JobStatus,
)
from sidecar.core.model import Account, Claim, Key, WhenDown
from sidecar.core.reasons import Decision

# Repeats a refused reservation: the decision, and the store's answer unless it was not asked.
Retry = Callable[[], Awaitable[tuple[Decision, Answer | None]]]


class LimitStore(Protocol):
    """The counters of limits. Each operation is atomic, and uses the store's own clock."""

    @property
    def up(self) -> bool:
        """Whether the store answers."""
        ...

    async def reserve(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        *,
        hold: Hold | None = None,
        once: bool = False,
        when_down: WhenDown = "deny",
    ) -> Answer:
        """Grant all claims or none. A refusal changes nothing.

        With `hold`, the reservation stays open until `settle` is called with its id; claims on
        concurrency need that. `when_down`: how a store with local shares decides if Redis is
        unavailable. `once`: no other request has these claims, so caching them is useless.

        Raises StoreUnavailable if the store does not answer in time. A grant that arrives later is
        given back.
        """
        ...

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """Return what `reserve` would answer now. Changes nothing. Raises StoreUnavailable."""
        ...

    def settle(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        on_settled: Callable[[Answer | None], None] | None = None,
        *,
        billed: bool = True,
    ) -> None:
        """Correct an open reservation to the claims' actual cost, free its slots and close it.

        Runs in the background, also after an outage, and counts once even if called again.
        `on_settled` gets None if the store does not answer now, and then the answer when it comes,
        whose `granted` is False if no reservation was open. `billed`: the request has an event that
        can report overage.
        """
        ...


class KeyDirectory(Protocol):
    """Keys and accounts that are not in the plan file."""

    def cached(self, digest: bytes) -> Key | None:
        """Return the key if it is in memory and fresh; None: use `find`. No I/O."""
        ...

    async def find(self, digest: bytes) -> Key | None:
        """Return the key with this SHA-256 digest, None if unknown. Raises StoreUnavailable."""
        ...


DRAINED: Final = "drained"  # the sidecar shuts down, so all waits end


class WaitResult(NamedTuple):
    """End of a wait. `decision` is the last one, `waited_us` the span of the wait.

    `end` says why it ended: "served", "timed-out", "drained" or "refused"; "" if the request did
    not wait, since the queue was full or the wait too long.
    """

    decision: Decision
    waited_us: int
    end: str


class WaitingRoom(Protocol):
    """The wait queues, for requests that do not fit now and will soon."""

    waiting: int  # requests that wait

    def refusal_behind_queue(self, key: Key, claims: Sequence[Claim]) -> Decision | None:
        """Return the refusal of a request that queues behind others, with the wait to expect.

        None: no request waits for these limits, so the store decides.
        """
        ...

    def wait(
        self,
        key: Key,
        claims: Sequence[Claim],
        decision: Decision,
        retry: Retry,
        *,
        arrival: int,
        size: int = 0,
        patience_us: int | None = None,
    ) -> Awaitable[WaitResult]:
        """Let a request wait whose `decision` has a wait, and try again when it fits.

        `arrival` grows with each request. It orders requests whose first answer from the store took
        different times. `size` is the memory that the request holds, in bytes. `patience_us` is the
        longest wait that the client accepts; None: as long as its plan allows. Exceptions of
        `retry` pass through.
        """
        ...

    def update(self, key: Key, claims: Sequence[Claim], answer: Answer) -> None:
        """Update the queues of these limits from the store's answer; waiting requests may fit."""
        ...


class EndedRequest(NamedTuple):
    """What is known of a request that has ended."""

    request_id: str
    name: str  # of the root span: low cardinality
    method: str
    target: str  # without the query
    status: int
    outcome: str
    account: str
    plan: str
    route: str
    job: str  # id of the deferred job; "" for a request of a client


class Trace(Protocol):
    """The trace of one sampled request."""

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        ...

    def span(
        self, name: str, started: float, outcome: str = "", status: int = 0, *, failed: bool = False
    ) -> None:
        """Record a step that began at `started`, by `time.perf_counter`, and ends now.

        `outcome` says how it ended. `status` is the upstream's HTTP status, or 0.
        """
        ...

    def end(self, started: float, request: EndedRequest) -> None:
        """Record that the request has ended. Only a settlement may follow.

        `started`: by `time.perf_counter`; 0: when the trace began.
        """
        ...


class Tracer(Protocol):
    """Chooses the requests that are traced."""

    def start(self, request_id: str, parents: Sequence[bytes]) -> Trace | None:
        """Begin the trace of a request; None if it is not sampled.

        `parents` are the values of the client's traceparent. The upstream gets the last 16 hex
        digits of `request_id` as its parent, so that is the id of the span `forward`.
        """
        ...


class Spool(Protocol):
    """The durable local log of events.

    `in_flight[0]` is the number of requests that may be charged and have no event yet. The gate
    counts there, and the number survives the death of the process.
    """

    in_flight: Any

    @property
    def accepting(self) -> bool:
        """Whether new requests may rely on the spool. False while the disk or spool is full."""
        ...

    def append(self, event: dict[str, Any] | bytes) -> None:
        """Append one CloudEvent or its JSON, without blocking; on disk within the commit window."""
        ...


class Sink(Protocol):
    """A destination of events."""

    @property
    def name(self) -> str:
        """Kind of the sink; also in the name of its cursor file and in metric labels."""
        ...

    async def check(self) -> None:
        """Find out, at the start, whether events can be stored. Raises SinkDown if not."""
        ...

    async def send(self, lines: Sequence[bytes]) -> None:
        """Deliver lines of the spool (JSON, without newlines) in order; durable on return.

        Raises SinkDown if a later attempt may succeed, SinkRefused if none can for this batch.
        """
        ...

    async def close(self) -> None:
        """Close files and connections. Idempotent."""
        ...


class DueItem(NamedTuple):
    """An account or a webhook that is due, and the instant until which it is hidden from others.

    Instants are µs of Redis time.
    """

    name: str
    hidden_until_us: int
    now_us: int


class JobCounts(NamedTuple):
    """Numbers of open jobs of the workload; instants are µs of Redis time.

    `running` of the `open` jobs run. `oldest_us` is when the oldest was accepted, 0 without jobs.
    `overdue` holds (id, account) of jobs that have been open for more than the maximum age.
    `stored_bytes` is the size of all jobs, `open_bytes` that of open ones.
    """

    now_us: int = 0
    open: int = 0
    running: int = 0
    oldest_us: int = 0
    overdue: tuple[tuple[str, str], ...] = ()
    stored_bytes: int = 0
    open_bytes: int = 0


class JobStore(Protocol):
    """Durable deferred jobs, shared by all sidecars of the workload.

    Each change is atomic, on the store's own clock. Each method raises StoreUnavailable if the
    store does not answer.
    """

    async def add(
        self, job: Job, key: IdempotencyKey | None, *, due_in_us: int
    ) -> AcceptedJob | JobRefusal:
        """Queue a job behind the account's other jobs; it may fit after `due_in_us`.

        With `key`, the same request is queued only once. Without room, ended jobs are dropped:
        first the results of the oldest ones, then the jobs.
        """
        ...

    async def count_change(self, account_id: str) -> int:
        """Count a change that an account makes to its jobs, and return 0.

        If its rate does not allow the change, return the span until it does, in µs.
        """
        ...

    async def find_by_key(self, account_id: str, digest: str) -> tuple[str, str] | None:
        """Return the job ID and the request digest of an Idempotency-Key; None if it is unknown."""
        ...

    async def find(self, account_id: str, job_id: str) -> JobStatus | None:
        """Return a job without its request; None if the account has no such job."""
        ...

    async def take_due_accounts(self, limit: int) -> list[DueItem]:
        """Return accounts whose jobs are due, and hide them from other sidecars for a while."""
        ...

    async def claim(self, account_id: str, owner: str) -> ClaimedJob | int:
        """Claim the account's next job for `owner`, for the span of a job lease.

        Without a job to claim, return how many open jobs the account has.
        """
        ...

    async def renew(self, job: Job, owner: str) -> bool:
        """Renew the job lease. False: the owner has lost the job."""
        ...

    async def requeue(self, job: Job, owner: str) -> bool:
        """Return the job to its old position in the queue. False: the owner has lost the job."""
        ...

    async def end(
        self, account_id: str, job_id: str, owner: str, outcome: JobOutcome
    ) -> JobState | None:
        """End a job that `owner` runs or, with "", a job that waits.

        Return the state of the job now; None if it is unknown. If the job was not the owner's, the
        state is not that of `outcome`.
        """
        ...

    async def schedule(self, account: DueItem, in_us: int | None) -> None:
        """Make the account due again after `in_us`; None: when it gets its next job.

        Another sidecar may have woken the account; then nothing changes.
        """
        ...

    async def wake(self, account_id: str) -> None:
        """Make the account due now, if it has jobs."""
        ...

    async def wake_all(self) -> None:
        """Make all accounts with jobs due, spread over some seconds."""
        ...

    async def count(self) -> JobCounts:
        """Return the numbers of open jobs."""
        ...

    async def list_open(self, limit: int) -> list[tuple[str, str]]:
        """Return (id, account) of open jobs, the oldest first."""
        ...

    async def take_due_webhooks(self, limit: int) -> list[DueItem]:
        """Return ended jobs ("id/account") whose webhook is due, and hide them for a while."""
        ...

    async def schedule_webhook(self, webhook: DueItem, in_us: int | None) -> None:
        """Make the webhook due again after `in_us`; None: it is delivered or given up."""
        ...
