"""The two records of usage: the events that were shipped, and the counters in Redis."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import redis

from loadtests.soak.accounts import Quota
from sidecar.core.counting.counters import EMPTY
from sidecar.core.events.read import REQUEST
from sidecar.reconcile.period_usage import MARGIN_US
from sidecar.stores import keys
from sidecar.stores.account_state import read_account

__all__ = ["REQUEST", "Counter", "Event", "Sum", "counters_in", "event_of", "events_in", "sums"]


class Event(NamedTuple):
    """The fields of a spool line that the checks need."""

    seq: int
    type: str
    id: str
    account: str
    key: str
    plan: str
    request_class: str
    time_us: int
    status: int
    reason: str
    usage: dict[str, int]


def event_of(line: Mapping[str, Any]) -> Event:
    """The event of a parsed line; fields that its type lacks are empty."""
    data = line.get("data", {})
    return Event(
        line["seq"],
        line["type"],
        line["id"],
        line.get("subject", ""),
        data.get("key", ""),
        data.get("plan", ""),
        data.get("class", ""),
        int(datetime.fromisoformat(line["time"]).timestamp() * 1_000_000),
        data.get("status", 0),
        data.get("reason", ""),
        data.get("usage", {}),
    )


def events_in(path: Path) -> Iterator[Event]:
    """The events of a sink's file, without duplicates: delivery is at least once."""
    seqs = set()
    with path.open("rb") as file:
        for line in file:
            event = event_of(orjson.loads(line))
            if event.seq not in seqs:
                seqs.add(event.seq)
                yield event


class Counter(NamedTuple):
    """A quota's counter in Redis."""

    used: int
    since_us: int  # the start of the period


def counters_in(store: "redis.Redis", prefix: str, quotas: Iterable[Quota]) -> dict[Quota, Counter]:
    """The units of each quota in the period that was charged last."""
    found = {}
    for quota in quotas:
        fields: Any = store.hgetall(keys.state(prefix, quota.account))
        field = keys.quota_field(quota.limit, quota.key)
        state = read_account(fields, {}).state.states.get(field, EMPTY)
        found[quota] = Counter(state.used, state.since_us)
    return found


@dataclass(slots=True)
class Sum:
    """Usage according to the events: charged for certain, and perhaps charged."""

    certain: int = 0
    doubtful: int = 0


def sums(
    events: Iterable[Event],
    counters: Mapping[Quota, Counter],
    is_doubtful: Callable[[Event], bool],
) -> dict[Quota, Sum]:
    """Usage in the counters' periods.

    At the very start of a period, only Redis knows which period a request was charged in.
    """
    found = {quota: Sum() for quota in counters}
    of_account: dict[str, list[Quota]] = {}
    for quota in counters:
        of_account.setdefault(quota.account, []).append(quota)
    for event in events:
        for quota in of_account.get(event.account, ()):
            units = event.usage.get(quota.meter, 0)
            before = counters[quota].since_us - event.time_us
            if not units or before > MARGIN_US or (quota.key or event.key) != event.key:
                continue
            if before > 0 or is_doubtful(event):
                found[quota].doubtful += units
            else:
                found[quota].certain += units
    return found
