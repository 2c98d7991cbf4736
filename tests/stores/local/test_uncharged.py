"""Uncharged units are read from the journals of running and of dead processes."""

from pathlib import Path

import pytest

from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account
from sidecar.core.periods import window_at
from sidecar.core.shares import NEVER_SEEN
from sidecar.stores.local.journal import SUFFIX
from sidecar.stores.local.journal_format import (
    Entry,
    JournalHeader,
    Owner,
    entry_line,
    header_line,
    owner_line,
)
from sidecar.stores.local.uncharged import UnchargedUnits, read_uncharged
from tests.support.recorded_events import NOON_US

ACME = Account("acme", "pro", "Europe/Paris")
MONTHLY = QuotaLimit("monthly", "requests", 100, "month", 100)
KEYED = QuotaLimit("daily", "requests", 100, "day", 100, per="key")
SINCE = {limit.id: window_at(limit, ACME, NOON_US).start for limit in (MONTHLY, KEYED)}
IN_MONTH = UnchargedUnits("acme", "q/monthly", SINCE["monthly"])


def write(directory: Path, entries: int, *, and_one_open: bool = False) -> Path:
    """A journal with so many requests that cost 3 units each."""
    owner = Owner(ACME, "k1", (MONTHLY, KEYED), (NEVER_SEEN, NEVER_SEEN))
    lines = [header_line(JournalHeader("0a", 1)), owner_line(0, owner)]
    written = [Entry(number, 0, NOON_US, (3, 3)) for number in range(1, entries + 1)]
    if and_one_open:
        written.append(Entry(entries + 1, 0, NOON_US, (3, 3), "h", True))
    path = directory / "journal" / f"0a{SUFFIX}"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join([*lines, *map(entry_line, written)]))
    return path


def nothing(account: str, journal: str, key_id: str) -> int:
    return 0


@pytest.mark.parametrize("folder", ["", "worker-1"])
def test_units_are_summed_by_account_limit_and_period(tmp_path: Path, folder: str) -> None:
    write(tmp_path / folder, 2)
    assert read_uncharged([tmp_path], nothing).units == {
        IN_MONTH: 6,
        UnchargedUnits("acme", "q/daily/k1", SINCE["daily"]): 6,
    }


def test_overage_that_events_report_is_summed_too(tmp_path: Path) -> None:
    path = write(tmp_path, 2)
    path.write_bytes(path.read_bytes() + entry_line(Entry(3, 0, NOON_US, (3, 3), reported=(2, 0))))
    overage = read_uncharged([tmp_path], nothing).overage
    assert +overage == {IN_MONTH: 2}


def test_charged_entries_are_not_counted(tmp_path: Path) -> None:
    write(tmp_path, 3)
    asked = []

    def two(account: str, journal: str, key_id: str) -> int:
        asked.append((account, journal, key_id))
        return 2

    assert read_uncharged([tmp_path], two).units[IN_MONTH] == 3
    assert asked == [("acme", "0a", "k1")]


def test_requests_in_flight_are_not_counted_as_they_have_no_event_yet(tmp_path: Path) -> None:
    write(tmp_path, 1, and_one_open=True)
    assert read_uncharged([tmp_path], nothing).units[IN_MONTH] == 3


def test_torn_and_invalid_lines_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:-9] + b"\n{}\n")
    assert read_uncharged([tmp_path], nothing).units[IN_MONTH] == 3


def test_without_journals_nothing_is_owed(tmp_path: Path) -> None:
    assert not read_uncharged([tmp_path], nothing).units
