"""A waiting room before a store that counts exactly, in virtual time."""

import asyncio
from datetime import UTC, datetime

from sidecar.config.values import refill
from sidecar.core.answers import Answer, Hold
from sidecar.core.decision import decide
from sidecar.core.model import (
    MICRO,
    Account,
    Claim,
    ConcurrencyLimit,
    Entitlement,
    Key,
    Limit,
    Plan,
    RateLimit,
    RequestClass,
    Route,
)
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
    """What a call asks of these limits; its claims are the same object every time."""
    plan = Plan("pro", 0, frozenset(), limits, GUARD, "deny")
    kind = RequestClass.CRITICAL if critical else RequestClass.STANDARD
    route = Route("rest", "/**", None, "/**", kind, frozenset(), (("requests", cost),))
    claims = tuple(
        Claim(limit, 1 if isinstance(limit, ConcurrencyLimit) else cost, critical)
        for limit in limits
    )
    return Entitlement(plan, route, claims, (), None, b"", ())


class House:
    """Calls as the gate makes them: behind those that wait, or asked for and held."""

    def __init__(self, *, most: int = 10_000, most_bytes: int = 1 << 20) -> None:
        self._loop = asyncio.get_running_loop()
        self.store = MemoryLimitStore(self.now_us)
        self.room = WaitingRoom(max_requests=most, max_bytes=most_bytes)
        self.arrivals = 0
        self.asked = 0  # times that the store was
        self.served: list[tuple[float, str]] = []  # when, and what

    def now_us(self) -> int:
        return START_US + round(self._loop.time() * MICRO)

    async def call(
        self,
        who: Key,
        found: Entitlement,
        name: str = "",
        *,
        size: int = 0,
        patience_us: int | None = None,
        answered: asyncio.Event | None = None,
    ) -> tuple[Decision, str]:
        """(the decision, why it was held no more; "" when it was not held). `answered`: when the
        store's first answer gets here."""
        self.arrivals += 1
        arrival = self.arrivals

        async def ask() -> tuple[Decision, Answer]:
            self.asked += 1
            hold = Hold(name, 30 * MICRO) if _holds(found) else None
            answer = await self.store.reserve(who.account, who.id, found.claims, hold=hold)
            return decide(found, answer), answer

        behind = self.room.refusal_behind_queue(who, found.claims) if self.room.waiting else None
        decision, left = behind or (await ask())[0], ""
        if answered is not None:
            await answered.wait()
        if decision.wait is not None:
            held = await self.room.wait(
                who, found.claims, decision, ask,
                arrival=arrival, size=size, patience_us=patience_us,
            )  # fmt: skip
            decision, left = held.decision, held.end
        if decision.allowed:
            self.served.append((round(self._loop.time(), 2), name))
        return decision, left

    def end(self, who: Key, found: Entitlement, name: str) -> None:
        """The call gives back what it held."""

        def told(answer: Answer) -> None:
            self.room.update(who, found.claims, answer)

        self.store.settle(who.account, who.id, found.claims, name, told)


def _holds(found: Entitlement) -> bool:
    return any(isinstance(claim.limit, ConcurrencyLimit) for claim in found.claims)
