"""A gate with limits in memory: no server, no network, and a clock that the test moves."""

from datetime import UTC, datetime
from typing import Any

from sidecar.core.kinds import MICRO
from sidecar.core.model import Entitlement, Key, PlanBook
from sidecar.core.overload.shedder import Shedder
from sidecar.core.readings import Reading
from sidecar.core.settlement import Outcome, OutcomeReason
from sidecar.errors import StoreUnavailable
from sidecar.gate import (
    Admission,
    DecisionRow,
    Deferred,
    Entitler,
    Gate,
    MayDefer,
    Recorder,
    Refused,
    Reserver,
)
from sidecar.metrics import Metrics
from sidecar.ports import WaitingRoom
from sidecar.stores.memory import MemoryLimitStore
from tests.support.builders import ARequest, a_book, a_request

START_US = int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()) * MICRO


class ManualClock:
    """Implements `gate.Clock`; identifiers count up."""

    def __init__(self) -> None:
        self.us = START_US
        self.ids = 0

    def now_us(self) -> int:
        return self.us

    def now_ns(self) -> int:
        return self.us * 1000

    def timestamp(self, now_ns: int) -> str:
        return datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")

    def request_id(self, _now_ns: int) -> str:
        self.ids += 1
        return f"id-{self.ids}"

    def jitter(self) -> int:
        return 0


class ListSpool:
    """Implements `ports.Spool`: events stay in a list."""

    def __init__(self) -> None:
        self.accepting = True
        self.in_flight: Any = [0]
        self.events: list[Any] = []

    def append(self, event: dict[str, Any] | bytes) -> None:
        self.events.append(event)


class DictDirectory:
    """Implements `ports.KeyDirectory`; None: it is unavailable."""

    def __init__(self, keys: dict[bytes, Key] | None = None) -> None:
        self.keys = keys
        self.lookups = 0

    def cached(self, _digest: bytes) -> Key | None:
        return None

    async def find(self, digest: bytes) -> Key | None:
        self.lookups += 1
        if self.keys is None:
            raise StoreUnavailable("the key directory is unavailable")
        return self.keys.get(digest)


class UnavailableStore(MemoryLimitStore):
    """A store that does not answer while `down`."""

    down = True

    async def reserve(self, *args: Any, **options: Any) -> Any:
        if self.down:
            raise StoreUnavailable("Redis is unavailable")
        return await super().reserve(*args, **options)

    async def peek(self, *args: Any, **options: Any) -> Any:
        if self.down:
            raise StoreUnavailable("Redis is unavailable")
        return await super().peek(*args, **options)


class GateStage:
    """The gate and its collaborators."""

    def __init__(
        self,
        book: PlanBook | None = None,
        *,
        store: type[MemoryLimitStore] = MemoryLimitStore,
        directory: DictDirectory | None = None,
        room: WaitingRoom | None = None,
        shedder: Shedder | None = None,
        record_refusals: bool = False,
        with_rows: bool = False,
    ) -> None:
        self.clock, self.spool, self.metrics = ManualClock(), ListSpool(), Metrics()
        self.redis_ahead_us = 0  # of the node's clock
        self.redis_us = 0  # what the sidecar knows of Redis time without asking
        self.store = store(lambda: self.clock.now_us() + self.redis_ahead_us)
        self.shedder = shedder or Shedder()
        self.directory = directory or DictDirectory({})
        self.rows: list[DecisionRow] = []
        self.store_times: list[float] = []  # response times of the store, in seconds
        self.reads = 0
        self.recorder = Recorder(
            self.spool, self.metrics, self.clock, "/sidecar/test",
            record_refusals=record_refusals, on_decision=self.rows.append if with_rows else None,
            redis_us=lambda: self.redis_us,
        )  # fmt: skip
        self.gate = Gate(
            Entitler(book or a_book(), self.directory, self.clock.now_us),
            Reserver(self.store, room, self.shedder, self.store_times.append),
            self.recorder,
        )

    async def read(self, _entitlement: Entitlement) -> Reading:
        self.reads += 1
        return Reading({"requests": 2}, {})

    async def admit(
        self,
        request: ARequest | None = None,
        may_defer: MayDefer | None = None,
        job_of: bytes | None = None,
    ) -> Admission | Refused | Deferred:
        return await self.gate.admit(request or a_request(), self.read, may_defer, job_of)

    async def allowed(self, request: ARequest | None = None) -> Admission:
        result = await self.admit(request)
        assert isinstance(result, Admission), result
        return result

    async def refused(self, request: ARequest | None = None) -> Refused:
        result = await self.admit(request)
        assert isinstance(result, Refused), result
        return result

    async def used(self, target: bytes = b"/items") -> tuple[int, ...]:
        """The counters of the limits of a request."""
        request = a_request(target)
        key = await self.gate.identify(request)
        assert isinstance(key, Key)
        entitlement = self.gate.entitlement_of(request, key)
        assert entitlement is not None
        answer = await self.gate.peek(key, entitlement)
        return () if answer is None else answer.used

    def counts(self) -> dict[tuple[str, str], int]:
        """Requests by route and outcome."""
        return {(labels[0], labels[3]): n for labels, n in self.metrics.requests.items()}


def an_outcome(status: int = 200, reason: OutcomeReason = OutcomeReason.OK) -> Outcome:
    return Outcome(status, reason, 5, 0, 2)
