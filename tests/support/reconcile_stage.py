"""A gate with a real Valkey and a real spool, and the verbs' own way of looking at both."""

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
from sidecar.gate import Admission, Gate, Refused
from sidecar.metering.event_reader import EventReader
from sidecar.metering.gaps import SequenceCoverage
from sidecar.metering.spool import Spool
from sidecar.metrics import Metrics
from sidecar.reconcile.compare import AccountComparison, Reconciler, reconcile
from sidecar.reconcile.differences import Verdict
from sidecar.reconcile.plan_history import PlanFiles
from sidecar.reconcile.rebuild import Rebuilt, rebuild
from sidecar.reconcile.text_report import differences, verdicts_of
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
class Asked:
    method: str
    target: bytes
    api_keys: list[bytes]
    authorizations: list[bytes] = field(default_factory=list)
    address: str = "127.0.0.1"


async def _no_body(_: Any) -> Reading:
    raise AssertionError("no route reads a body")


@dataclass
class House:
    """`call` is admitted and settled; `admit` only admitted."""

    url: str
    plans: Path
    spool_at: Path
    gate: Gate
    spool: Spool
    store: RedisLimitStore
    wire: Wire
    client: "redis.Redis"

    async def admit(
        self, what: str = "GET /", account: str = "acme", key: str = "k1"
    ) -> Admission | Refused:
        method, path = what.split()
        asked = Asked(method, path.encode(), [f"{account}-{key}".encode()])
        return await self.gate.admit(asked, _no_body)

    async def call(
        self,
        what: str = "GET /",
        times: int = 1,
        *,
        tokens: int | None = None,
        status: int = 200,
        **who: str,
    ) -> int:
        """How many of them were admitted."""
        admitted = 0
        for _ in range(times):
            result = await self.admit(what, **who)
            if isinstance(result, Admission):
                admitted += 1
                self.over(result, tokens=tokens, status=status)
        await self.rest()
        return admitted

    def over(self, admission: Admission, *, tokens: int | None = None, status: int = 200) -> None:
        reading = None if tokens is None else Reading({"tokens": tokens}, {})
        self.gate.settle(admission, Outcome(status, OutcomeReason.OK, 1, 0, 0, reading))

    async def rest(self) -> None:
        """Everything is on disk and in Redis."""
        await self.spool.flush()
        await self.store.settler.close()

    def swap(self, text: str) -> None:
        self.plans.write_text(text)
        self.gate.swap(load(self.plans))
        self.store.forget()

    def looker(self, inspector: Inspector, paths: Sequence[Path], **options: Any) -> Reconciler:
        history = EventReader(paths or [self.spool_at], coverage=SequenceCoverage())
        former = [load(path) for path in options.pop("former", ())]
        files = PlanFiles(load(self.plans), former)
        return Reconciler(inspector, history.new_requests, files, [self.spool_at], **options)

    def reconcile(self, *paths: Path, **options: Any) -> dict[str, AccountComparison]:
        """Without waiting: nothing is in flight that will end."""
        with Inspector(self.url, "qs") as inspector:
            return reconcile(self.looker(inspector, paths, **options), lambda: None)

    def rebuild(
        self, *paths: Path, apply: bool = True, lower: bool = False, **options: Any
    ) -> Rebuilt:
        with Inspector(self.url, "qs") as inspector:
            looker = self.looker(inspector, paths, **options)
            return rebuild(looker, inspector, apply=apply, lower=lower, wait=lambda: None)


def told(looks: dict[str, AccountComparison]) -> list[str]:
    return list(differences(looks))


def why(looks: dict[str, AccountComparison]) -> dict[str, dict[str, int]]:
    """limit (and key) → kind → units, of every counter that is not equal."""
    return {
        name_of(one): {str(why.kind): why.units for why in one.whys}
        for one in verdicts_of(looks)
        if one.whys
    }


def name_of(verdict: Verdict) -> str:
    row = verdict.row
    limit = row.limit.id if row.key is None else f"{row.limit.id}/{row.key}"
    return limit if row.account == "acme" else f"{row.account} {limit}"


def counters(looks: dict[str, AccountComparison]) -> dict[str, int]:
    return {name_of(one): one.counter for one in verdicts_of(looks)}


@asynccontextmanager
async def a_house(url: str, directory: Path, text: str = "") -> AsyncIterator[House]:
    plans = directory / "plans.yaml"
    plans.write_text(text or plans_text())
    wire = Wire(url, timeout_s=10)
    await wire.start()
    spool = Spool(directory / "spool", commit_window_s=0.001)
    spool.open()
    book = load(plans)
    store = RedisLimitStore(wire)
    gate = Gate(
        book, store=store, directory=RedisDirectory(wire, "qs", book.accounts.get), spool=spool,
        metrics=Metrics(), clock=Clock(), source="/sidecar/test",
    )  # fmt: skip
    with redis.Redis.from_url(url) as client:
        yield House(url, plans, directory / "spool", gate, spool, store, wire, client)
    await store.settler.close()
    await spool.close()
    await wire.stop()
