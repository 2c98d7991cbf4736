"""The promises that the gate relies on. Adapters keep them; `tests/contracts/` holds them to it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from sidecar.core.answers import Answer, Hold
from sidecar.core.model import Account, Claim, Decision, Key, WhenDown

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
        told: Callable[[Answer], None] | None = None,
    ) -> None:
        """Correct an open reservation to the claims' real cost, give its slots back and close it.

        Counts once, however often it is called, and however long the store is gone: it is done
        in the background. `told` hears how the limits stand then.
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


class Held(NamedTuple):
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
        size: int = 0,
        patience_us: int | None = None,
    ) -> Awaitable[Held]:
        """Hold a call whose `decision` has a wait, and try again in its turn.

        `size`: bytes that it keeps in memory meanwhile. `patience_us`: the longest that the client
        wants to wait; None: as long as its plan lets it. What `attempt` raises passes through.
        """
        ...

    def heard(self, key: Key, claims: Sequence[Claim], answer: Answer) -> None:
        """What the store just said of these limits of an account: somebody's turn may come."""
        ...


class Spool(Protocol):
    """The durable local log of events."""

    @property
    def accepting(self) -> bool:
        """False when an event appended now would be lost (disk or spool full)."""
        ...

    def append(self, event: dict[str, Any]) -> None:
        """Take one CloudEvent. Never blocks; it is on disk within the commit window."""
        ...


class Sink(Protocol):
    """Where events are shipped."""

    @property
    def name(self) -> str:
        """Names the cursor file and the metric label: "stdout", "file", "redis"."""
        ...

    async def send(self, lines: Sequence[bytes]) -> None:
        """Deliver spool lines (JSON, no newline), in order; on return they are safe there.

        Raises SinkDown (try again later) or SinkRefused (never, for this batch).
        """
        ...

    async def close(self) -> None:
        """Let go of files and connections. Idempotent."""
        ...
