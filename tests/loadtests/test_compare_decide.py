"""The measurement of the decide port."""

import pytest

from loadtests.compare import decide
from loadtests.compare.gateways import find


@pytest.mark.skipif(find("wrk") is None, reason="wrk is not installed")
def test_each_mode_is_answered_with_200(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "WARM_UP_SECONDS", 1)
    monkeypatch.setattr("sys.argv", ["decide", "--tree", ".", "--rounds", "1", "--seconds", "1"])
    assert decide.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(decide.MODES)
    assert all(int(line.split("/s")[0].replace(",", "")) > 0 for line in lines)
