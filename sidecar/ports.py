"""The promises that the gate relies on. Adapters keep them; `tests/contracts/` holds them to it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from sidecar.core.answers import Answer, Hold
from sidecar.core.jobs.job import (
    Accepted,
    Claimed,
    Job,
    JobState,
    JobStatus,
    NotAccepted,
    Once,
    Over,
)
from sidecar.core.model import Account, Claim, Key, WhenDown
from sidecar.core.reasons import Decision

# Asks again for what was refused: the decision, and what the store said if it was asked.
Try = Callable[[], Awaitable[tuple[Decision, Answer | None]]]


class LimitStore(Protocol):
    """Where counters live. Atomic, all or nothing, on the store's own clock."""

    @property
    def up(self) -> bool:
        """Whether the last exchange with the store went well."""
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

        With `hold` the reservation stays open until `settle` is called with its id; claims on
        concurrency need that.

        Raises StoreUnavailable when the store cannot tell in time; a grant that nobody waited
        for is given back. `when_down`: whether somebody else may answer then. `once`: these
        claims are of this call alone, so that nothing about them is worth keeping.
        """
        ...

    async def peek(self, account: Account, key_id: str, claims: Sequence[Claim]) -> Answer:
        """What `reserve` would answer now, changing nothing. Raises StoreUnavailable."""
        ...

    def settle(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        hold_id: str,
        on_settled: Callable[[Answer], None] | None = None,
    ) -> None:
        """Correct an open reservation to the claims' real cost, give its slots back and close it.

        Counts once, however often it is called, and however long the store is gone: it is done
        in the background. `on_settled` gets the answer.
        """
        ...


class KeyDirectory(Protocol):
    """Keys and accounts that are not in the plan file."""

    def cached(self, digest: bytes) -> Key | None:
        """The key if it is in memory and fresh, without I/O; None says "ask `find`"."""
        ...

    async def find(self, digest: bytes) -> Key | None:
        """The key with this SHA-256 digest, None if there is none. Raises StoreUnavailable."""
        ...


DRAINED: Final = "drained"  # why a call is held no more: nobody is, as this sidecar ends


class WaitResult(NamedTuple):
    """How holding a call ended. `decision`: the last one; `waited_us`: for how long it was held;
    `left`: why it is held no more ("served", "timed-out", "drained", "refused"; "" when there was
    no place or no time for it)."""

    decision: Decision
    waited_us: int
    left: str


class WaitingRoom(Protocol):
    """Where calls are held that do not fit now and will soon."""

    waiting: int  # calls that are held

    def ahead(self, key: Key, claims: Sequence[Claim]) -> Decision | None:
        """The refusal, with the wait that is to be expected, of a call that others wait before;
        None when nobody does, so that the store has to be asked."""
        ...

    def hold(
        self,
        key: Key,
        claims: Sequence[Claim],
        decision: Decision,
        attempt: Try,
        *,
        arrival: int,
        size: int = 0,
        patience_us: int | None = None,
    ) -> Awaitable[WaitResult]:
        """Hold a call whose `decision` has a wait, and try again in its turn.

        `arrival`: a number that grows from call to call: others may have been held while this one
        asked the store, and those that came after it stand behind it. `size`: bytes that it keeps
        in memory meanwhile. `patience_us`: the longest that the client wants to wait; None: as long
        as its plan lets it. What `attempt` raises passes through.
        """
        ...

    def heard(self, key: Key, claims: Sequence[Claim], answer: Answer) -> None:
        """What the store just said of these limits of an account: somebody's turn may come."""
        ...


class Spool(Protocol):
    """The durable local log of events."""

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

    async def send(self, lines: Sequence[bytes]) -> None:
        """Deliver lines of the spool (JSON, without newlines) in order; durable on return.

        Raises SinkDown if a later attempt may succeed, SinkRefused if none can for this batch.
        """
        ...

    async def close(self) -> None:
        """Close files and connections. Idempotent."""
        ...


class Turn(NamedTuple):
    """Something that is due now, and until when others do not see it (µs of Redis time)."""

    who: str
    until_us: int
    now_us: int


class JobCounts(NamedTuple):
    """How many jobs of the workload are open, and of those running; since when the oldest is open
    (0: there is none), by the time of Redis. `overdue`: ids and accounts of those that have been
    open for too long."""

    now_us: int = 0
    open: int = 0
    running: int = 0
    oldest_us: int = 0
    overdue: tuple[tuple[str, str], ...] = ()


class JobStore(Protocol):
    """Where deferred jobs are kept, durably and for all sidecars of the workload. Every change is
    atomic, on the store's own clock. All of it raises StoreUnavailable."""

    async def add(self, job: Job, once: Once | None, *, look_in_us: int) -> Accepted | NotAccepted:
        """Queue a job behind those of its account. With `once` the same call is queued once;
        `look_in_us`: a span after which it may fit."""
        ...

    async def known(self, account_id: str, name: str) -> tuple[str, str] | None:
        """The job that a `Once` of this name stands for, and the print of its call; None: none."""
        ...

    async def find(self, account_id: str, job_id: str) -> JobStatus | None:
        """A job as it stands, without its call."""
        ...

    async def take(self, most: int) -> list[Turn]:
        """Accounts whose jobs should be looked at now; they are nobody else's for a while."""
        ...

    async def claim(self, account_id: str, owner: str) -> Claimed | int:
        """The account's next job, which is `owner`'s until its lease is over. Without one: how
        many the account has that others run."""
        ...

    async def keep(self, job: Job, owner: str) -> bool:
        """Renew the lease. False: the job is not the owner's any more."""
        ...

    async def give_back(self, job: Job, owner: str) -> bool:
        """Put the job back to where it was in the queue; whether it was the owner's."""
        ...

    async def end(self, account_id: str, job_id: str, owner: str, over: Over) -> JobState | None:
        """End a job that `owner` runs or, with "", that waits. The state in which it is now:
        another one than `over` says, if it was not; None when it is not known."""
        ...

    async def next_turn(self, turn: Turn, in_us: int | None) -> None:
        """Say when the account is to be looked at again; None: not before it has a new job.
        Whoever wanted it sooner meanwhile gets his way."""
        ...

    async def wake(self, account_id: str) -> None:
        """Look at the account at once, if it has jobs."""
        ...

    async def hurry(self) -> None:
        """Look at all accounts that have jobs, spread over some seconds."""
        ...

    async def count(self) -> JobCounts:
        """How many there are."""
        ...

    async def open_ones(self, most: int) -> list[tuple[str, str]]:
        """Ids and accounts of the jobs that have not ended, the oldest first."""
        ...

    async def untold(self, most: int) -> list[Turn]:
        """Ended jobs ("id/account") whose end is to be told now; nobody else does for a while."""
        ...

    async def told(self, turn: Turn, again_in_us: int | None) -> None:
        """Say when to try again; None: it is told, or given up."""
        ...
