"""The short version of the crash series: five kills, of every kind.

Reconcile explains each unit that is charged and has no event: it was in flight at a kill.
"""

from pathlib import Path

import pytest

from loadtests.crash import KINDS, CrashSeries


@pytest.mark.timeout(300)
async def test_I12_no_answered_request_lacks_its_event_after_five_kills(
    tmp_path: Path, _valkey: str
) -> None:
    port = int(_valkey.rpartition(":")[2].partition("/")[0])
    tally = await CrashSeries(tmp_path, port, seed=12).run(5)
    assert tally.problems == []
    assert sum(tally.kills.values()) == 5
    assert set(tally.kills) >= set(KINDS) - {"slow fsync"}
    assert len(tally.answered) >= 100
    assert 0 < tally.charged <= tally.in_flight
