"""What journals hold that Redis was not told of yet: units, by account, limit's field and period.

Journals of living processes are read as well as those of dead ones; none is locked or changed.
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

_PLACES: Final = ("*", "*/*", "*/*/*")  # in a spool, and in those of workers


class UnchargedUnits(NamedTuple):
    """One limit's counter in the period that begins at `since_us`."""

    account: str
    field: str
    since_us: int


Charged = Callable[[str, str, str], int]  # account, journal, key → number of the last entry


def uncharged_units(directories: Sequence[Path], charged: Charged) -> Counter[UnchargedUnits]:
    """Calls that were over and have not been charged. Raises SpoolError."""
    debts: Counter[UnchargedUnits] = Counter()
    for path in sorted(_journals(directories)):
        try:
            _add(debts, JournalReader(path), charged)
        except FileNotFoundError:  # all of it was charged meanwhile
            continue
        except OSError as error:
            raise SpoolError(f"The journal {path} cannot be read: {error.strerror}.") from None
    return debts


def _journals(directories: Sequence[Path]) -> set[Path]:
    patterns = (f"{place}{SUFFIX}" for place in _PLACES)
    return {path for pattern in patterns for one in directories for path in one.glob(pattern)}


def _add(debts: Counter[UnchargedUnits], reader: JournalReader, charged: Charged) -> None:
    marks: dict[tuple[str, str], int] = {}
    for entry, owner in _entries(reader):
        who = owner.account.id, owner.key_id
        journal = reader.header.id if reader.header else ""
        if who not in marks:
            marks[who] = charged(owner.account.id, journal, owner.key_id)
        if entry.seq <= marks[who]:
            continue
        for limit, cost in zip(owner.quotas, entry.costs, strict=True):
            field = keys.limit_field(limit, owner.key_id)
            since = window_at(limit, owner.account, entry.at_us).start
            debts[UnchargedUnits(owner.account.id, field, since)] += cost


def _entries(reader: JournalReader) -> Iterator[tuple[Entry, Owner]]:
    for chunk in reader.chunks():
        for entry in chunk:
            yield entry, reader.owners[entry.owner]
