"""The log of a spool that cannot write: once for each time that it happens."""

from pathlib import Path

import pytest

from sidecar.errors import SpoolFilesMissing
from sidecar.metering.capacity import Capacity


def test_files_that_are_missing_again_are_logged_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capacity = Capacity(tmp_path, 1_000, "refuse")
    for _ in range(2):
        for _ in range(3):
            capacity.report_error(SpoolFilesMissing("the segment is missing"))
        assert capacity.files_missing and capacity.problem
        assert capsys.readouterr().out.count("spool_files_missing") == 1
        capacity.report_success()
        assert not capacity.files_missing and capacity.problem is None
        assert "spool_recovered" in capsys.readouterr().out
