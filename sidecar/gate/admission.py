"""The gate's input and output: requests, and what was decided about them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sidecar.core.model import Entitlement, Key
from sidecar.core.overload.shedder import InFlightRequest
from sidecar.core.readings import Reading
from sidecar.core.reasons import Decision
from sidecar.core.refusals.build import Refusal
from sidecar.ports import Trace

UNKNOWN: Final = "-"  # label for a route, plan or account that is not known yet


class Clock(Protocol):
    """Wall time and identifiers, as in `sidecar.clock.Clock`."""

    def now_ns(self) -> int: ...
    def timestamp(self, now_ns: int) -> str: ...
    def request_id(self, now_ns: int) -> str: ...
    def jitter(self) -> int: ...


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One decision as texts, for the demo's table."""

    account: str
    route: str
    request_class: str
    decision: str
    remaining: str


class InboundRequest(Protocol):
    """What an entry point knows of a request before it has read the body."""

    method: str
    target: bytes  # as in the request line

    @property
    def api_keys(self) -> Sequence[bytes]: ...  # values of X-Api-Key, as received
    @property
    def authorizations(self) -> Sequence[bytes]: ...  # values of Authorization

    address: str  # of the client

    waiting: bool  # it is in a wait queue, and leaves it if the client disconnects
    trace: Trace | None  # set by the gate, if the request is sampled

    @property
    def traceparents(self) -> Sequence[bytes]: ...  # values of traceparent, as received

    @property
    def size(self) -> int:
        """Bytes of it that are in memory while it waits."""
        ...

    @property
    def patience_us(self) -> int | None:
        """The longest wait that the client accepts; None: the client does not limit it."""
        ...


ReadAhead = Callable[[Entitlement], Awaitable[Reading]]
MayDefer = Callable[[Any, Entitlement, Decision], bool]  # of the entry point's own request class


class Admission:
    """A request that was allowed, with the entitlement under which it was decided.

    A reload while it is in flight changes neither its price nor its answer.
    """

    __slots__ = (
        "clock",
        "decision",
        "ends_us",
        "entitlement",
        "in_flight",
        "job",
        "key",
        "late_overage",
        "plan_version",
        "queued_us",
        "request",
        "request_id",
        "starts_us",
        "stays_open",
        "time",
    )

    def __init__(
        self,
        request_id: str,
        time: str,
        clock: str,
        request: InboundRequest,
        key: Key,
        entitlement: Entitlement,
        plan_version: str,
        decision: Decision,
        in_flight: InFlightRequest,
        ends_us: tuple[int, ...],
        starts_us: tuple[int, ...],
        stays_open: bool,
        queued_us: int,
    ) -> None:
        self.request_id = request_id
        self.time = time  # when it was allowed
        self.clock = clock  # of `time`
        self.request = request
        self.key = key
        self.entitlement = entitlement
        self.plan_version = plan_version
        self.decision = decision
        self.in_flight = in_flight  # until it is settled
        self.ends_us = ends_us  # of the claims' periods; () if the store did not answer
        self.starts_us = starts_us  # of them, where they are not the calendar's
        self.stays_open = stays_open  # the reservation stays open until it is settled
        self.late_overage = stays_open and entitlement.late_overage
        self.queued_us = queued_us  # how long it waited
        self.job = ""  # id of the deferred job that it runs for


@dataclass(slots=True)
class Refused:
    """A request that was refused, and its answer. `key` and `entitlement`: as far as known."""

    request_id: str
    refusal: Refusal
    key: Key | None = None
    entitlement: Entitlement | None = None
    decision: Decision | None = None  # of limits, if they were asked


@dataclass(slots=True)
class Deferred:
    """A request that limits refuse now, and that may run later as a job.

    The entry point then calls `Gate.record_deferred`, or `Gate.refuse` if it could not be queued.
    `refusal` is the answer in that case.
    """

    request_id: str
    refusal: Refusal
    key: Key
    entitlement: Entitlement
    decision: Decision
