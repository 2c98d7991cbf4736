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


# (account, journal, key) → number of the last charged entry
LastCharged = Callable[[str, str, str], int]


def uncharged_units(
    directories: Sequence[Path], last_charged: LastCharged
) -> Counter[UnchargedUnits]:
    """Units of finished requests that are not charged. Raises SpoolError."""
    units: Counter[UnchargedUnits] = Counter()
    for path in sorted(_journals(directories)):
        try:
            _add(units, JournalReader(path), last_charged)
        except FileNotFoundError:  # another process has charged and deleted it
            continue
        except OSError as error:
            raise SpoolError(f"the journal {path} is not readable: {error.strerror}") from None
    return units


def _journals(directories: Sequence[Path]) -> set[Path]:
    patterns = (f"{pattern}{SUFFIX}" for pattern in _PATTERNS)
    return {path for pattern in patterns for one in directories for path in one.glob(pattern)}


def _add(units: Counter[UnchargedUnits], reader: JournalReader, last_charged: LastCharged) -> None:
    charged_to: dict[tuple[str, str], int] = {}
    for entry, owner in _entries(reader):
        pair = owner.account.id, owner.key_id
        journal = reader.header.id if reader.header else ""
        if pair not in charged_to:
            charged_to[pair] = last_charged(owner.account.id, journal, owner.key_id)
        if entry.seq <= charged_to[pair]:
            continue
        for limit, cost in zip(owner.quotas, entry.costs, strict=True):
            field = keys.limit_field(limit, owner.key_id)
            since = window_at(limit, owner.account, entry.at_us).start
            units[UnchargedUnits(owner.account.id, field, since)] += cost


def _entries(reader: JournalReader) -> Iterator[tuple[Entry, Owner]]:
    for chunk in reader.chunks():
        for entry in chunk:
            yield entry, reader.owners[entry.owner]
