"""Units in journals that Redis has not charged yet, by account, limit's field and period.

This reads the journals of running processes as well as abandoned ones. It locks and changes none.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.core.periods import window_at
from sidecar.errors import SpoolError
from sidecar.stores import keys
from sidecar.stores.local.journal import SUFFIX
from sidecar.stores.local.journal_format import Entry, Owner
from sidecar.stores.local.journal_reader import JournalReader

_PATTERNS: Final = ("*", "*/*", "*/*/*")  # in a spool, and in the spools of workers


class UnchargedUnits(NamedTuple):
    """One limit's counter in the period that starts at `since_us`."""

    account: str
    field: str
    since_us: int


class Uncharged(NamedTuple):
    """Units of finished requests that are not charged, and the overage their events report."""

    units: Counter[UnchargedUnits]
    overage: Counter[UnchargedUnits]


# (account, journal, key) → number of the last charged entry
LastCharged = Callable[[str, str, str], int]


def read_uncharged(directories: Sequence[Path], last_charged: LastCharged) -> Uncharged:
    """Read the journals in these directories. Raises SpoolError."""
    found = Uncharged(Counter(), Counter())
    for path in sorted(_journals(directories)):
        try:
            _add(found, JournalReader(path), last_charged)
        except FileNotFoundError:  # another process has charged and deleted it
            continue
        except OSError as error:
            raise SpoolError(f"the journal {path} is not readable: {error.strerror}") from None
    return found


def _journals(directories: Sequence[Path]) -> set[Path]:
    patterns = (f"{pattern}{SUFFIX}" for pattern in _PATTERNS)
    return {path for pattern in patterns for one in directories for path in one.glob(pattern)}


def _add(found: Uncharged, reader: JournalReader, last_charged: LastCharged) -> None:
    charged_to: dict[tuple[str, str], int] = {}
    for entry, owner in _entries(reader):
        pair = owner.account.id, owner.key_id
        journal = reader.header.id if reader.header else ""
        if pair not in charged_to:
            charged_to[pair] = last_charged(owner.account.id, journal, owner.key_id)
        if entry.seq <= charged_to[pair]:
            continue
        overage = entry.reported or (0,) * len(entry.costs)
        for limit, cost, over in zip(owner.quotas, entry.costs, overage, strict=True):
            field = keys.limit_field(limit, owner.key_id)
            since = window_at(limit, owner.account, entry.at_us).start
            counter = UnchargedUnits(owner.account.id, field, since)
            found.units[counter] += cost
            found.overage[counter] += over


def _entries(reader: JournalReader) -> Iterator[tuple[Entry, Owner]]:
    for chunk in reader.chunks():
        for entry in chunk:
            yield entry, reader.owners[entry.owner]
