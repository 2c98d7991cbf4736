"""The journals of dead processes are charged: completely, once, in the right period."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from sidecar.core.kinds import MICRO, QuotaLimit
from sidecar.core.model import Claim
from sidecar.core.periods import window_at
from sidecar.core.shares import NEVER_SEEN
from sidecar.files import Files
from sidecar.stores import Wire
from sidecar.stores.commands import Commands
from sidecar.stores.local.abandoned_journals import AbandonedJournals
from sidecar.stores.local.charger import Sum, charge_command
from sidecar.stores.local.journal import Journal
from sidecar.stores.scripts import load
from tests.support.stores.local_stage import ACME, new_id, used

DAY_US = 86_400 * MICRO
MONTHLY = QuotaLimit("monthly", "requests", 100, "month", 100)
KEYED = QuotaLimit("keyed", "requests", 100, "month", 100, per="key")
DAILY = QuotaLimit("daily", "requests", 100, "day", 100)


@pytest.fixture
async def wire(valkey_url: str) -> AsyncIterator[Wire]:
    wire = Wire(valkey_url, timeout_s=10)
    await wire.start()
    yield wire
    await wire.stop()


def now_of(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        seconds, micros = client.time()
    return int(seconds * MICRO + micros)


async def a_dead_journal(directory: Path, entries: list[tuple[str, int, int]]) -> str:
    """A journal of requests (key, cost, instant); a cost below 0 is of one in flight."""
    journal = Journal(directory, Files(), identity=new_id(), commit_window_s=0.001)
    for number, (key_id, cost, at_us) in enumerate(entries):
        claims = [Claim(limit, abs(cost), False) for limit in (MONTHLY, KEYED, DAILY)]
        journal.add(
            ACME, key_id, claims, at_us, sidecars=1, snapshot_of=lambda _: NEVER_SEEN,
            hold_id=f"h{number}", is_open=cost < 0,
        )  # fmt: skip
    identity = journal.id
    await journal.close()
    return identity


async def charged(directory: Path, wire: Wire) -> AbandonedJournals:
    """Charge all journals in the directory."""
    journals = AbandonedJournals(directory, wire, Commands("qs"), "qs", Files())
    await journals.find()
    async with asyncio.timeout(60):
        await journals.charge()
    assert journals.uncharged == 0
    return journals


async def test_requests_are_charged_to_their_account_and_key(
    wire: Wire, valkey_url: str, tmp_path: Path
) -> None:
    now = now_of(valkey_url)
    await a_dead_journal(tmp_path, [("k1", 3, now), ("k2", 4, now), ("k1", 5, now)])
    await charged(tmp_path, wire)
    assert used(valkey_url, MONTHLY) == 12
    assert [used(valkey_url, KEYED, key_id=key_id) for key_id in ("k1", "k2")] == [8, 4]
    assert not _left(tmp_path)


async def test_a_request_in_flight_is_charged_at_its_reserved_cost(
    wire: Wire, valkey_url: str, tmp_path: Path
) -> None:
    now = now_of(valkey_url)
    await a_dead_journal(tmp_path, [("k1", -7, now), ("k1", 1, now)])
    await charged(tmp_path, wire)
    assert used(valkey_url, MONTHLY) == 8


async def test_entries_of_a_past_period_are_not_charged_to_the_current_one(
    wire: Wire, valkey_url: str, tmp_path: Path
) -> None:
    now = now_of(valkey_url)
    this = window_at(DAILY, ACME, now).start
    await a_dead_journal(tmp_path, [("k1", 10, this - 1), ("k1", 5, now)])
    await charged(tmp_path, wire)
    assert used(valkey_url, DAILY) == 5
    same_month = window_at(MONTHLY, ACME, this - 1).start == window_at(MONTHLY, ACME, now).start
    assert used(valkey_url, MONTHLY) == (15 if same_month else 5)


@pytest.mark.parametrize("done", [0, 1, 6, 19, 20])
async def test_I5_entries_that_the_dead_process_has_charged_are_skipped(
    wire: Wire, valkey_url: str, tmp_path: Path, done: int
) -> None:
    now = now_of(valkey_url)
    journal = await a_dead_journal(tmp_path, [("k1", 1, now)] * 20)
    if done:
        one = Sum(ACME, "k1", journal, 1, 1)
        for seq in range(1, done + 1):
            limits = (MONTHLY, KEYED, DAILY)
            claims = [(Claim(x, 1, True), window_at(x, ACME, now).start, 0) for x in limits]
            one.add(seq, now, claims)
        await wire.execute(load("limits/charge").load_command())
        assert (await wire.execute(charge_command(Commands("qs"), "qs", one, now)))[0] == 1
    await charged(tmp_path, wire)
    assert used(valkey_url, MONTHLY) == 20


async def test_I5_if_the_charging_process_dies_the_next_one_charges_the_rest(
    wire: Wire, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.stores.local.journal_reader.CHUNK", 10)
    now = now_of(valkey_url)
    await a_dead_journal(tmp_path, [("k1", 1, now)] * 55)
    journals = AbandonedJournals(tmp_path, wire, Commands("qs"), "qs", Files())
    await journals.find()
    dying = asyncio.ensure_future(journals.charge())
    async with asyncio.timeout(60):
        while used(valkey_url, MONTHLY) < 20:
            await asyncio.sleep(0)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    journals.close()
    await charged(tmp_path, wire)
    assert used(valkey_url, MONTHLY) == 55


async def test_the_valid_lines_of_a_damaged_journal_are_charged_and_the_file_is_renamed(
    wire: Wire, valkey_url: str, tmp_path: Path
) -> None:
    now = now_of(valkey_url)
    await a_dead_journal(tmp_path, [("k1", 1, now)] * 9)
    [path] = _left(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + b"rubbish\n" + b"".join(lines[6:]))
    await charged(tmp_path, wire)
    assert used(valkey_url, MONTHLY) == 8
    assert [one.name for one in _left(tmp_path)] == [path.name + ".bad"]
    await charged(tmp_path, wire)
    assert used(valkey_url, MONTHLY) == 8


async def test_a_file_that_is_not_a_journal_is_renamed(
    wire: Wire, valkey_url: str, tmp_path: Path
) -> None:
    (tmp_path / "x.journal").write_bytes(b'["used",1,0,5,[1],null]\n')
    await charged(tmp_path, wire)
    assert [one.name for one in _left(tmp_path)] == ["x.journal.bad"]


def _left(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def opened_in(directory: Path) -> list[Path]:
    """The files of a directory that this process has open."""
    links = [one for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    return [path for path in (one.readlink() for one in links) if path.is_relative_to(directory)]


async def test_I9_a_charged_journal_is_closed(wire: Wire, valkey_url: str, tmp_path: Path) -> None:
    await a_dead_journal(tmp_path, [("k1", 1, now_of(valkey_url))])
    await charged(tmp_path, wire)
    assert opened_in(tmp_path) == []
