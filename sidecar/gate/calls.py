"""What goes into the gate and what comes out of it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sidecar.core.model import Entitlement, Key
from sidecar.core.overload.shedder import InFlightRequest
from sidecar.core.readings import Reading
from sidecar.core.reasons import Decision
from sidecar.core.refusals.build import Refusal

NOBODY: Final = "-"  # label of what is not known yet: a route, plan or account


class Clock(Protocol):
    """Wall time and identifiers, as `sidecar.clock.Clock` gives them."""

    def now_ns(self) -> int: ...
    def timestamp(self, now_ns: int) -> str: ...
    def request_id(self, now_ns: int) -> str: ...
    def jitter(self) -> int: ...


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One decision, for whoever watches: the demo's table."""

    account: str
    route: str
    request_class: str
    decision: str
    remaining: str


class InboundRequest(Protocol):
    """What a door knows of a request before its body is read."""

    method: str
    target: bytes  # as it stands in the request line

    @property
    def api_keys(self) -> Sequence[bytes]: ...  # values of X-Api-Key, as received
    @property
    def authorizations(self) -> Sequence[bytes]: ...  # values of Authorization

    address: str  # of the client

    waiting: bool  # it is held: whoever leaves now gives up its place

    @property
    def size(self) -> int:
        """Bytes of it that are kept while it waits."""
        ...

    @property
    def patience_us(self) -> int | None:
        """For how long the client wants to wait at most; None when it does not say."""
        ...


ReadAhead = Callable[[Entitlement], Awaitable[Reading]]


class Admission:
    """A call that may go on. It keeps the entitlement that it was decided under: a reload in
    mid-flight changes no price and no answer."""

    __slots__ = (
        "call", "decision", "entitlement", "held", "job", "key", "place", "plan_version",
        "queued_us", "request_id", "time",
    )  # fmt: skip

    def __init__(
        self,
        request_id: str,
        time: str,
        call: InboundRequest,
        key: Key,
        entitlement: Entitlement,
        plan_version: str,
        decision: Decision,
        place: InFlightRequest,
        *,
        held: bool,
        queued_us: int,
    ) -> None:
        self.request_id = request_id
        self.time = time
        self.call = call
        self.key = key
        self.entitlement = entitlement
        self.plan_version = plan_version
        self.decision = decision
        self.place = place  # in flight, until it is settled
        self.held = held  # the reservation is open until it is settled
        self.queued_us = queued_us  # for which the call was held before
        self.job = ""  # the id of the deferred job that it runs for


@dataclass(slots=True)
class Refused:
    """A call that goes no further, and the answer it gets. Whose it is, as far as that is known."""

    request_id: str
    refusal: Refusal
    key: Key | None = None
    entitlement: Entitlement | None = None
    decision: Decision | None = None  # of limits, when they were asked


@dataclass(slots=True)
class Deferred:
    """A call that limits refuse now and that its client wants to run later, if it can be queued.
    Whoever asked calls `queued` or `refuse` with it. `refusal`: its answer if it cannot."""

    request_id: str
    refusal: Refusal
    key: Key
    entitlement: Entitlement
    decision: Decision


Defers = Callable[[Any, Entitlement, Decision], bool]  # the door's own kind of InboundRequest
