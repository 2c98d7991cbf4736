"""The promises that the gate relies on. Adapters keep them; `tests/contracts/` holds them to it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sidecar.core.answers import Answer, Hold
from sidecar.core.model import Account, Claim, Key, WhenDown


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
