"""Log events about an unreachable API, with a controlled clock."""

import pytest

from sidecar.proxy.upstream.reachability import QUIET_S, Reachability


class Film:
    """Records the log events since the last read, each as its event and its fields."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.now = 100.0
        self.api = Reachability("api:80", lambda: self.now)
        self._capsys = capsys

    def lines(self) -> list[str]:
        return [line.split("] ", 1)[1] for line in self._capsys.readouterr().out.splitlines()]


@pytest.fixture
def film(capsys: pytest.CaptureFixture[str]) -> Film:
    return Film(capsys)


def test_a_change_is_logged_once_for_any_number_of_requests(film: Film) -> None:
    film.api.connected()
    assert film.lines() == []
    for _ in range(5):
        film.api.connect_failed("Connection refused")
    [line] = film.lines()
    assert line.startswith("upstream_unreachable")
    assert "error='Connection refused'" in line and "upstream=api:80" in line
    film.now += 7
    film.api.connected()
    film.api.connected()
    [line] = film.lines()
    assert line.startswith("upstream_reachable")
    assert "failed_attempts=5" in line and "duration_s=7.0" in line


def test_missing_responses_are_logged_at_once_and_then_in_sums(film: Film) -> None:
    film.api.response_missing("too slow")
    [line] = film.lines()
    assert line.startswith("upstream_no_response") and "requests=1" in line
    for problem in ("too slow", "too slow", "busy"):
        film.api.response_missing(problem)
    film.now += QUIET_S - 1
    film.api.sweep()
    assert film.lines() == []
    film.now += 1
    film.api.sweep()
    slow, busy = film.lines()
    assert "error='too slow'" in slow and "requests=2" in slow
    assert "error=busy" in busy and "requests=1" in busy
    film.now += QUIET_S
    film.api.sweep()
    assert film.lines() == []
