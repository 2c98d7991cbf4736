"""The backtest's benchmark measures what it says: a sound spool of calls that can be replayed."""

from pathlib import Path

import pytest

from loadtests.backtest import PLANS, arguments, calls, write
from sidecar.config.loading import load
from sidecar.metering.event_reader import EventReader
from sidecar.metering.verify import verify


def test_its_events_are_those_of_a_sidecar(tmp_path: Path) -> None:
    book = load(PLANS)
    write(tmp_path, calls(book, 300))
    report = verify(tmp_path)
    assert (report.ok, report.events) == (True, 300)
    history = EventReader([tmp_path])
    read = list(history.new_requests())
    assert history.found.broken == 0
    assert {call.route for call in read} == {route.id for route in book.routes}
    assert {call.plan for call in read} == set(book.plans)


@pytest.mark.parametrize("events", ["0", "many"])
def test_a_number_that_is_none_is_refused(events: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--events", events])
    assert "--events" in capsys.readouterr().err
