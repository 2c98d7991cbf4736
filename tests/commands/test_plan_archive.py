"""`sidecar plans list` and `sidecar plans show` on a real archive."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.archive import DIRECTORY, archive
from sidecar.files import Files


@pytest.fixture
def version(tmp_path: Path) -> str:
    (tmp_path / "plans.yaml").write_bytes(b"version: 1\n")
    name = "sha256:" + hashlib.sha256(b"version: 1\n").hexdigest()
    (tmp_path / "spool").mkdir()
    assert archive(tmp_path / "spool" / DIRECTORY, tmp_path / "plans.yaml", name, Files())
    return name


def test_a_version_is_listed_and_printed_as_it_was(
    sidecar: Any, tmp_path: Path, version: str
) -> None:
    listed = sidecar("plans", "list", "--spool", tmp_path / "spool")
    assert (listed.returncode, listed.stdout) == (0, version + "\n")
    shown = sidecar("plans", "show", version, "--spool", tmp_path / "spool")
    assert (shown.returncode, shown.stdout) == (0, "version: 1\n")


def test_an_unknown_version_is_an_error(sidecar: Any, tmp_path: Path, version: str) -> None:
    done = sidecar("plans", "show", version[:-1] + "g", "--spool", tmp_path / "spool")
    assert done.returncode != 0
    assert "has no plan file of version" in done.stderr
    assert "sidecar plans list" in done.stderr
