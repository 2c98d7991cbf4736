"""Wait queues with an exact store in memory, in virtual time."""

import asyncio
from datetime import UTC, datetime

from sidecar.config.values import refill
from sidecar.core.answers import Answer, Hold
from sidecar.core.decision import decide
from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit, RateLimit
from sidecar.core.model import Account, Claim, Entitlement, Key, Plan, RequestClass, Route
from sidecar.core.reasons import Decision
from sidecar.stores.memory import MemoryLimitStore
from sidecar.waiting.room import WaitingRoom

START_US = int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()) * MICRO
GUARD = RateLimit("critical", "calls", 1000, MICRO, 5000, (1000, 1))


def rate(
    units: int, burst: int, max_wait_s: int, name: str = "per-second", per: str = "account"
) -> RateLimit:
    return RateLimit(
        name, "requests", units, MICRO, burst, refill(units, MICRO),
        per, max_wait_us=max_wait_s * MICRO,
    )  # type: ignore[arg-type]  # fmt: skip


def slots(number: int, max_wait_s: int) -> ConcurrencyLimit:
    return ConcurrencyLimit("in-flight", number, max_wait_us=max_wait_s * MICRO)


def key(account: str, name: str = "k1") -> Key:
    return Key(name, Account(account, "pro"))


def entitlement(*limits: Limit, cost: int = 1, critical: bool = False) -> Entitlement:
    """Return the entitlement of a request with these limits."""
    plan = Plan("pro", 0, frozenset(), limits, GUARD, "deny")
    kind = RequestClass.CRITICAL if critical else RequestClass.STANDARD
    route = Route("rest", "/**", None, "/**", kind, frozenset(), (("requests", cost),))
    claims = tuple(
        Claim(limit, 1 if isinstance(limit, ConcurrencyLimit) else cost, critical)
        for limit in limits
    )
    return Entitlement(plan, route, claims, (), None, b"", ())


class WaitingStage:
    """Makes requests as the gate does: they queue behind others, or try and wait."""

    def __init__(self, *, most: int = 10_000, most_bytes: int = 1 << 20) -> None:
        self._loop = asyncio.get_running_loop()
        self.store = MemoryLimitStore(self.now_us)
        self.room = WaitingRoom(max_requests=most, max_bytes=most_bytes)
        self.arrivals = 0
        self.tries = 0  # reservations that the store has tried
        self.served: list[tuple[float, str]] = []  # (loop time, name)

    def now_us(self) -> int:
        return START_US + round(self._loop.time() * MICRO)

    async def request(
        self,
        key: Key,
        entitlement: Entitlement,
        name: str = "",
        *,
        size: int = 0,
        patience_us: int | None = None,
        answered: asyncio.Event | None = None,
    ) -> tuple[Decision, str]:
        """Return the decision and the end of the wait, "" without one.

        `answered` delays the store's first answer.
        """
        self.arrivals += 1
        arrival = self.arrivals

        async def attempt() -> tuple[Decision, Answer]:
            self.tries += 1
            hold = Hold(name, 30 * MICRO) if _has_slots(entitlement) else None
            answer = await self.store.reserve(key.account, key.id, entitlement.claims, hold=hold)
            return decide(entitlement, answer), answer

        behind = (
            self.room.refusal_behind_queue(key, entitlement.claims) if self.room.waiting else None
        )
        decision, end = behind or (await attempt())[0], ""
        if answered is not None:
            await answered.wait()
        if decision.wait is not None:
            result = await self.room.wait(
                key, entitlement.claims, decision, attempt,
                arrival=arrival, size=size, patience_us=patience_us,
            )  # fmt: skip
            decision, end = result.decision, result.end
        if decision.allowed:
            self.served.append((round(self._loop.time(), 2), name))
        return decision, end

    def end(self, key: Key, entitlement: Entitlement, name: str) -> None:
        """Settle the request, which returns its slots."""

        def on_settled(answer: Answer) -> None:
            self.room.update(key, entitlement.claims, answer)

        self.store.settle(key.account, key.id, entitlement.claims, name, on_settled)


def _has_slots(entitlement: Entitlement) -> bool:
    return any(isinstance(claim.limit, ConcurrencyLimit) for claim in entitlement.claims)
