"""The benchmark of the backtest writes a whole spool of requests that can be replayed."""

from pathlib import Path

import pytest

from loadtests.backtest import PLANS, arguments, usage_events, write
from sidecar.config.loading import load
from sidecar.metering.event_reader import EventReader
from sidecar.metering.verify import verify


def test_its_events_have_the_form_of_a_sidecars_events(tmp_path: Path) -> None:
    book = load(PLANS)
    write(tmp_path, usage_events(book, 300))
    report = verify(tmp_path)
    assert (report.ok, report.events) == (True, 300)
    reader = EventReader([tmp_path])
    requests = list(reader.new_requests())
    assert reader.summary.broken == 0
    assert {request.route for request in requests} == {route.id for route in book.routes}
    assert {request.plan for request in requests} == set(book.plans)


@pytest.mark.parametrize("events", ["0", "many"])
def test_an_invalid_number_is_refused(events: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--events", events])
    assert "--events" in capsys.readouterr().err
