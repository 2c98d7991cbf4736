"""How the end of a request counts for the adaptive limit."""

from collections.abc import Iterator

import pytest

from sidecar.core.overload.adaptive_limit import AdaptiveLimit, OverloadState
from sidecar.core.overload.shedder import Shedder
from sidecar.core.settlement import OutcomeReason
from tests.support.builders import ROUTES, a_book, a_plan, a_quota, a_route
from tests.support.gate_stage import GateStage, an_outcome

CALM, SUSPECTED = OverloadState.CALM, OverloadState.SUSPECTED


class AdaptiveStage:
    """A gate with an adaptive limit, and a clock that each request moves."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock
        self.limit = AdaptiveLimit(1)
        plan = a_plan(a_quota(10_000))
        self.gate = GateStage(a_book(plan), shedder=Shedder(adaptive=self.limit))

    async def respond(self, seconds: float) -> None:
        """Serve a request, whose response takes so long."""
        admission = await self.gate.allowed()
        self.clock[0] += seconds
        admission.in_flight.on_response(200, self.clock[0])
        self.gate.gate.settle(admission, an_outcome())

    async def end(self, reason: OutcomeReason, seconds: float) -> None:
        """End a request without a response after so long."""
        admission = await self.gate.allowed()
        self.clock[0] += seconds
        self.gate.gate.settle(admission, an_outcome(502, reason))


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[AdaptiveStage]:
    clock = [1_000.0]
    for module in ("gate", "reserve"):
        monkeypatch.setattr(f"sidecar.gate.{module}.perf_counter", lambda: clock[0])
    yield AdaptiveStage(clock)


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (OutcomeReason.UPSTREAM_REFUSED, SUSPECTED),
        (OutcomeReason.UPSTREAM_TIMEOUT, SUSPECTED),
        (OutcomeReason.UPSTREAM_BROKEN, SUSPECTED),
        (OutcomeReason.CANCELLED, CALM),
        (OutcomeReason.CLIENT_GONE, CALM),
    ],
)
async def test_only_a_request_that_the_api_has_not_answered_is_a_drop(
    stage: AdaptiveStage, reason: OutcomeReason, state: OverloadState
) -> None:
    for _ in range(20):
        await stage.respond(0.05)
    for _ in range(15):
        await stage.respond(0.05)
        await stage.end(reason, 0.01)
    assert stage.limit.state is state


async def test_a_client_that_leaves_a_slow_api_counts_as_slow(stage: AdaptiveStage) -> None:
    for _ in range(20):
        await stage.respond(0.05)
    for _ in range(30):
        await stage.end(OutcomeReason.CLIENT_GONE, 0.5)
    assert stage.limit.state is not CALM


async def test_a_reload_forgets_the_baselines_of_routes_that_are_gone(
    stage: AdaptiveStage,
) -> None:
    for _ in range(20):
        await stage.respond(0.05)
    other = a_book(a_plan(a_quota(10_000)), routes=(a_route("other"),))
    stage.gate.gate.reload(other)
    stage.gate.gate.reload(a_book(a_plan(a_quota(10_000)), routes=ROUTES))
    for _ in range(30):  # slow, but without a baseline to compare with
        await stage.respond(0.5)
    assert stage.limit.state is CALM
