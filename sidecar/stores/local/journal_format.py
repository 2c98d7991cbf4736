"""The format of a journal: one JSON array per line; its first element is the kind of line.

    ["journal", 1, "<id>", <sidecars>]                       the first line
    ["of", <n>, <account>, <key id>, <quotas>, <snapshots>]  the owner of entries with n, and the
                                                             last known state of its quotas
    ["open", <seq>, <n>, <at µs>, <costs>, "<hold>"]         a request in flight, at its estimate
    ["used", <seq>, <n>, <at µs>, <costs>, "<hold>"|null]    a request at its actual cost; with one
                                                             more element, the overage that its
                                                             event reports, by quota, if it has any

A line has a quota's or a team share's whole definition, so that a process with another plan file,
or none, can charge the journal. Entries are numbered (seq) from 1 without gaps.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, NamedTuple

from sidecar.core.kinds import PeriodLimit, QuotaLimit, Scope, TeamShare
from sidecar.core.model import Account
from sidecar.core.shares import Snapshot

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Owner:
    """The key that entries belong to, and the quotas that its requests count against."""

    account: Account
    key_id: str
    quotas: tuple[PeriodLimit, ...]
    snapshots: tuple[Snapshot, ...] = ()


class Entry(NamedTuple):
    """One request. `costs` in the order of the owner's quotas; `at_us` in Redis time.

    `reported`: the overage that its event reports, in the same order; () without any.
    """

    seq: int
    owner: int
    at_us: int
    costs: tuple[int, ...]
    hold_id: str | None = None
    is_open: bool = False
    reported: tuple[int, ...] = ()


class JournalHeader(NamedTuple):
    """A journal's id, and the number of sidecars when the journal was created."""

    id: str
    sidecars: int


class NumberedOwner(NamedTuple):
    """An owner, and the number by which entries refer to it."""

    number: int
    owner: Owner


def _line(*values: object) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def header_line(header: JournalHeader) -> bytes:
    """The first line of a journal."""
    return _line("journal", VERSION, header.id, header.sidecars)


def owner_line(number: int, owner: Owner) -> bytes:
    """The line that precedes the first entry of an owner."""
    account = owner.account
    anchor = account.anchor.isoformat() if account.anchor else None
    quotas = [_quota_values(quota) for quota in owner.quotas]
    record = [account.id, account.plan, account.timezone, anchor]
    return _line("of", number, record, owner.key_id, quotas, owner.snapshots)


def _quota_values(quota: PeriodLimit) -> list[object]:
    """The values of a quota or a team share. Charging does not need the other teams' shares."""
    values = [quota.id, quota.meter, quota.units, quota.capacity, quota.period, quota.per]
    if isinstance(quota, TeamShare):
        return [*values, 0, quota.team, quota.lends]
    return [*values, quota.rollover]


def entry_line(entry: Entry) -> bytes:
    """The line of one request."""
    kind = "open" if entry.is_open else "used"
    reported = (entry.reported,) if any(entry.reported) else ()
    return _line(kind, entry.seq, entry.owner, entry.at_us, entry.costs, entry.hold_id, *reported)


def read_line(line: bytes, owners: Mapping[int, Owner]) -> JournalHeader | NumberedOwner | Entry:
    """A line as a value. Raises ValueError if it is invalid, or its owner is not in `owners`."""
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
        raise ValueError("not a journal of this version")
    return JournalHeader(identity, _whole(sidecars))


def _named(
    number: int, record: Sequence[Any], key_id: str, quotas: Sequence[Any], states: Sequence[Any]
) -> NumberedOwner:
    name, plan, timezone, anchor = record
    account = Account(name, plan, timezone, date.fromisoformat(anchor) if anchor else None)
    limits = tuple(_quota(*quota) for quota in quotas)
    snapshots = tuple(Snapshot(*map(_whole, state)) for state in states)
    if len(snapshots) != len(limits):
        raise ValueError("not one snapshot per quota")
    return NumberedOwner(_whole(number), Owner(account, key_id, limits, snapshots))


def _quota(
    name: str, meter: str, units: int, cap: int, period: str, per: Scope, rollover: int, *team: Any
) -> PeriodLimit:
    if not team:
        return QuotaLimit(
            name, meter, _whole(units), period, _whole(cap), (), per, _whole(rollover)
        )
    team_id, lends = team
    if not isinstance(team_id, str) or not isinstance(lends, bool):
        raise ValueError("not a team share")
    return TeamShare(name, meter, _whole(units), period, team=team_id, lends=lends)


def _entry(
    kind: str, seq: int, owner: int, at_us: int, costs: Sequence[int], hold_id: str | None,
    reported: Sequence[int] = (), *, owners: Mapping[int, Owner],
) -> Entry:  # fmt: skip
    quotas = len(owners[owner].quotas)
    if kind not in ("open", "used") or len(costs) != quotas or len(reported) not in (0, quotas):
        raise ValueError("not a journal entry")
    numbers, overage = tuple(map(_whole, costs)), tuple(map(_whole, reported))
    return Entry(_whole(seq), owner, _whole(at_us), numbers, hold_id, kind == "open", overage)


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not an integer of at least 0")
    return value
