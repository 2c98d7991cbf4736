"""A gate with a real Valkey and a real spool, and reconcile and rebuild on both."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from sidecar.clock import Clock
from sidecar.config.loading import load
from sidecar.core.readings import Reading
from sidecar.core.settlement import Outcome, OutcomeReason
from sidecar.gate import Admission, Entitler, Gate, Recorder, Refused, Reserver
from sidecar.metering.event_reader import EventReader
from sidecar.metering.gaps import SequenceCoverage
from sidecar.metering.spool import Spool
from sidecar.metrics import Metrics
from sidecar.reconcile.compare import Comparisons, Reconciler, reconcile
from sidecar.reconcile.differences import CounterComparison
from sidecar.reconcile.plan_history import PlanHistory
from sidecar.reconcile.rebuild import RebuildReport, rebuild
from sidecar.reconcile.text_report import differences, used_counters
from sidecar.stores import RedisDirectory, RedisLimitStore, Wire
from sidecar.stores.inspector import Inspector

PLANS = """
version: 1
meters:
  requests: {unit: request}
  tokens: {unit: token, settle: {json: usage.total}}
routes:
  - {id: login, match: "POST /login", class: critical}
  - {id: chat, match: "POST /chat", cost: {requests: 1, tokens: 100}}
  - {id: dear, match: "GET /dear", cost: {requests: 5}}
  - {id: rest, match: "/**"}
plans:
  pro:
    limits:
      - {id: monthly, meter: requests, quota: 50/month, at: {100%: reject}}
      - {id: per-key, meter: requests, quota: 10000/month, per: key}
      - {id: tokens, meter: tokens, quota: 1000/month, at: {100%: overage}}
      - {id: burst, meter: requests, rate: 1000/s}
      - {id: in-flight, concurrency: 100}
    refund: [upstream_5xx, upstream_refused]
  free:
    limits:
      - {id: monthly, meter: requests, quota: 1_000_000/month}
packs:
  boost: {meter: requests, limit: monthly, units: 100, lasts: month, price: 5 USD}
accounts:
"""


def plans_text(*changes: tuple[str, str]) -> str:
    text = PLANS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    for account, plan in (("acme", "pro"), ("fred", "free")):
        keys = ", ".join(
            f"{{id: {key}, sha256: {hashlib.sha256(f'{account}-{key}'.encode()).hexdigest()}}}"
            for key in ("k1", "k2")
        )
        text += f"  - {{id: {account}, plan: {plan}, keys: [{keys}]}}\n"
    return text


@dataclass
class StubRequest:
    """A request as the gate reads it."""

    method: str
    target: bytes
    api_keys: list[bytes]
    authorizations: list[bytes] = field(default_factory=list)
    address: str = "127.0.0.1"


async def _no_body(_: Any) -> Reading:
    raise AssertionError("no route reads a body")


@dataclass
class Stage:
    """`send` admits and settles requests; `admit` only admits one."""

    url: str
    plans: Path
    spool_path: Path
    gate: Gate
    spool: Spool
    store: RedisLimitStore
    wire: Wire
    client: "redis.Redis"

    async def admit(
        self, what: str = "GET /", account: str = "acme", key: str = "k1"
    ) -> Admission | Refused:
        method, path = what.split()
        request = StubRequest(method, path.encode(), [f"{account}-{key}".encode()])
        return await self.gate.admit(request, _no_body)

    async def send(
        self,
        what: str = "GET /",
        times: int = 1,
        *,
        tokens: int | None = None,
        status: int = 200,
        **sender: str,
    ) -> int:
        """Send requests one after the other. Returns the number of admitted ones."""
        admitted = 0
        for _ in range(times):
            result = await self.admit(what, **sender)
            if isinstance(result, Admission):
                admitted += 1
                self.settle(result, tokens=tokens, status=status)
        await self.flush()
        return admitted

    def settle(self, admission: Admission, *, tokens: int | None = None, status: int = 200) -> None:
        reading = None if tokens is None else Reading({"tokens": tokens}, {})
        self.gate.settle(admission, Outcome(status, OutcomeReason.OK, 1, 0, 0, reading))

    async def flush(self) -> None:
        """Wait until all events are on disk and all settlements in Redis."""
        await self.store.settler.close()  # first: some events wait for Redis' answer
        await self.spool.flush()

    def reload(self, text: str) -> None:
        self.plans.write_text(text)
        self.gate.reload(load(self.plans))
        self.store.forget()

    def reconciler(self, inspector: Inspector, paths: Sequence[Path], **options: Any) -> Reconciler:
        reader = EventReader(
            paths or [self.spool_path], coverage=SequenceCoverage(), with_overage=True
        )
        former = [load(path) for path in options.pop("former", ())]
        plans = PlanHistory(load(self.plans), former)
        return Reconciler(inspector, reader.new_requests, plans, [self.spool_path], **options)

    def reconcile(self, *paths: Path, **options: Any) -> Comparisons:
        """Compare without waiting, unless `wait` lets requests in flight end."""
        wait = options.pop("wait", lambda: None)
        with Inspector(self.url, "qs") as inspector:
            return reconcile(self.reconciler(inspector, paths, **options), wait)

    def rebuild(
        self, *paths: Path, apply: bool = True, lower: bool = False, **options: Any
    ) -> RebuildReport:
        with Inspector(self.url, "qs") as inspector:
            reconciler = self.reconciler(inspector, paths, **options)
            return rebuild(reconciler, inspector, apply=apply, lower=lower, wait=lambda: None)


def difference_lines(comparisons: Comparisons) -> list[str]:
    return list(differences(comparisons))


def causes(comparisons: Comparisons) -> dict[str, dict[str, int]]:
    """Units by limit (and key), then by kind of cause, of every counter that is not equal."""
    return {
        name_of(one): {str(cause.kind): cause.units for cause in one.causes}
        for one in used_counters(comparisons)
        if one.causes
    }


def name_of(counter: CounterComparison) -> str:
    usage = counter.usage
    limit = usage.limit.id if usage.key is None else f"{usage.limit.id}/{usage.key}"
    return limit if usage.account == "acme" else f"{usage.account} {limit}"


def counters(comparisons: Comparisons) -> dict[str, int]:
    return {name_of(one): one.counter for one in used_counters(comparisons)}


@asynccontextmanager
async def a_stage(url: str, directory: Path, text: str = "") -> AsyncIterator[Stage]:
    plans = directory / "plans.yaml"
    plans.write_text(text or plans_text())
    wire = Wire(url, timeout_s=10)
    await wire.start()
    spool = Spool(directory / "spool", commit_window_s=0.001)
    spool.open()
    book = load(plans)
    store = RedisLimitStore(wire)
    keys, clock = RedisDirectory(wire, "qs", book.accounts.get), Clock()
    gate = Gate(
        Entitler(book, keys, lambda: clock.now_ns() // 1000),
        Reserver(store),
        Recorder(spool, Metrics(), clock, "/sidecar/test"),
    )
    with redis.Redis.from_url(url) as client:
        yield Stage(url, plans, directory / "spool", gate, spool, store, wire, client)
    await store.settler.close()
    await spool.close()
    await wire.stop()
