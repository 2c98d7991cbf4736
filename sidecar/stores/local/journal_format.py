"""What stands in a journal: a JSON array a line, the first element names the kind.

    ["journal", 1, "<id>", <sidecars>]                     the first line
    ["of", <n>, <account>, <key id>, <quotas>, <looks>]    who entries with n are of, and how
                                                           Redis last showed those quotas
    ["open", <seq>, <n>, <at µs>, <costs>, "<hold>"]       a call that goes on, at its estimate
    ["used", <seq>, <n>, <at µs>, <costs>, "<hold>"|null]  a call and its final cost

A quota stands with all that counting it takes, so that a journal can be charged by a process that
has another plan file, or none; so does a team's share of one. Numbers of entries (seq) rise by
one within a journal.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, NamedTuple

from sidecar.core.model import Account, Claim, QuotaLimit, Scope, TeamShare
from sidecar.core.shares import Snapshot

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose entries are: an account's key, with the quotas that its calls count against."""

    account: Account
    key_id: str
    quotas: tuple[QuotaLimit, ...]
    looks: tuple[Snapshot, ...] = ()


class Entry(NamedTuple):
    """One call. `costs` in the order of the owner's quotas; `at_us` in Redis time."""

    seq: int
    owner: int
    at_us: int
    costs: tuple[int, ...]
    hold_id: str | None = None
    is_open: bool = False


class JournalHeader(NamedTuple):
    """`sidecars`: how many there were when it began."""

    id: str
    sidecars: int


class Named(NamedTuple):
    """An owner, and the number under which entries name it."""

    number: int
    owner: Owner


def _line(*values: object) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def header_line(header: JournalHeader) -> bytes:
    """The first line."""
    return _line("journal", VERSION, header.id, header.sidecars)


def owner_line(number: int, owner: Owner) -> bytes:
    """Precedes the first entry of this owner."""
    account = owner.account
    anchor = account.anchor.isoformat() if account.anchor else None
    quotas = [
        [q.id, q.meter, q.units, q.cap, q.period, q.per, q.rollover, *_team(q)]
        for q in owner.quotas
    ]  # fmt: skip
    who = [account.id, account.plan, account.timezone, anchor]
    return _line("of", number, who, owner.key_id, quotas, owner.looks)


def _team(quota: QuotaLimit) -> list[object]:
    """What is written more of a team's share. What the other teams have, charging does not ask."""
    return [quota.team, quota.lends] if isinstance(quota, TeamShare) else []


def entry_line(entry: Entry) -> bytes:
    """One call."""
    kind = "open" if entry.is_open else "used"
    return _line(kind, entry.seq, entry.owner, entry.at_us, entry.costs, entry.hold_id)


def read_line(line: bytes, owners: Mapping[int, Owner]) -> JournalHeader | Named | Entry:
    """What a line says. Raises ValueError for what is none, or names an owner not in `owners`."""
    try:
        kind, *values = json.loads(line)
        if kind == "journal":
            return _header(*values)
        if kind == "of":
            return _named(*values)
        return _entry(kind, *values, owners=owners)
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError(str(error)) from None


def _header(version: int, identity: str, sidecars: int) -> JournalHeader:
    if version != VERSION or not isinstance(identity, str) or not identity:
        raise ValueError("a journal of another version")
    return JournalHeader(identity, _whole(sidecars))


def _named(
    number: int, who: Sequence[Any], key_id: str, quotas: Sequence[Any], looks: Sequence[Any]
) -> Named:
    name, plan, timezone, anchor = who
    account = Account(name, plan, timezone, date.fromisoformat(anchor) if anchor else None)
    limits = tuple(_quota(*quota) for quota in quotas)
    seen = tuple(Snapshot(*map(_whole, look)) for look in looks)
    if len(seen) != len(limits):
        raise ValueError("a look for each quota is missing")
    return Named(_whole(number), Owner(account, key_id, limits, seen))


def _quota(
    name: str, meter: str, units: int, cap: int, period: str, per: Scope, rollover: int, *team: Any
) -> QuotaLimit:
    if not team:
        return QuotaLimit(
            name, meter, _whole(units), period, _whole(cap), (), per, _whole(rollover)
        )
    whose, lends = team
    if not isinstance(whose, str) or not isinstance(lends, bool):
        raise ValueError("not a team's share")
    return TeamShare(name, meter, _whole(units), period, _whole(cap), team=whose, lends=lends)


def _entry(
    kind: str, seq: int, owner: int, at_us: int, costs: Sequence[int], hold_id: str | None,
    *, owners: Mapping[int, Owner],
) -> Entry:  # fmt: skip
    if kind not in ("open", "used") or len(costs) != len(owners[owner].quotas):
        raise ValueError("not an entry of a journal")
    numbers = tuple(map(_whole, costs))
    return Entry(_whole(seq), owner, _whole(at_us), numbers, hold_id, kind == "open")


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a number from 0")
    return value


def claims_of(owner: Owner, costs: Sequence[int]) -> tuple[Claim, ...]:
    """The costs as claims that are counted whatever there is."""
    return tuple(
        Claim(quota, cost, forced=True)
        for quota, cost in zip(owner.quotas, costs, strict=True)
        if cost
    )
