"""The archive of plan files: each live version is kept once, unchanged, and found again."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from sidecar.config import archive
from sidecar.files import Files
from tests.support.power import Disk


def write(path: Path, text: bytes) -> str:
    path.write_bytes(text)
    return "sha256:" + hashlib.sha256(text).hexdigest()


def keep(spool: Path, plan_file: Path, version: str, files: Files | None = None) -> bool:
    spool.mkdir(exist_ok=True)
    return archive.archive(spool / archive.DIRECTORY, plan_file, version, files or Files())


def test_each_version_is_kept_and_found_by_its_hash(tmp_path: Path) -> None:
    plan_file, spool = tmp_path / "plans.yaml", tmp_path / "spool"
    first = write(plan_file, b"version: 1\n")
    assert keep(spool, plan_file, first) and keep(spool, plan_file, first)
    second = write(plan_file, b"version: 1\n# second\n")
    assert keep(spool / "worker-1", plan_file, second)
    assert archive.find(spool, first) == b"version: 1\n"
    assert archive.find(spool, second) == b"version: 1\n# second\n"
    assert set(archive.versions(spool)) == {first, second}
    assert archive.find(spool, "sha256:../../etc/passwd") is None


def test_a_file_that_has_changed_since_is_not_kept_under_the_old_version(tmp_path: Path) -> None:
    plan_file, spool = tmp_path / "plans.yaml", tmp_path / "spool"
    version = write(plan_file, b"version: 1\n")
    plan_file.write_bytes(b"version: 1\n# edited\n")
    assert not keep(spool, plan_file, version)
    assert archive.versions(spool) == []


def test_an_altered_file_is_not_returned(tmp_path: Path) -> None:
    plan_file, spool = tmp_path / "plans.yaml", tmp_path / "spool"
    version = write(plan_file, b"version: 1\n")
    assert keep(spool, plan_file, version)
    (spool / "plans" / f"{version[7:]}.yaml").write_bytes(b"version: 2\n")
    assert archive.find(spool, version) is None


def test_the_number_of_versions_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_VERSIONS", 3)
    plan_file, spool = tmp_path / "plans.yaml", tmp_path / "spool"
    kept = []
    for number in range(5):
        kept.append(write(plan_file, b"# %d\n" % number))
        assert keep(spool, plan_file, kept[-1])
        os.utime(spool / "plans" / f"{kept[-1][7:]}.yaml", (number, number))
    assert archive.versions(spool) == kept[-3:]


def test_a_full_disk_is_logged(tmp_path: Path, capsys: Any) -> None:
    def full(_fd: int, _data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    plan_file = tmp_path / "plans.yaml"
    version = write(plan_file, b"version: 1\n")
    assert not keep(tmp_path / "spool", plan_file, version, Files(write=full))
    assert "plan_file_not_archived" in capsys.readouterr().out
    assert archive.find(tmp_path / "spool", version) is None


def test_15_a_kept_version_survives_a_power_failure(tmp_path: Path) -> None:
    disk, plan_file, spool = Disk(), tmp_path / "plans.yaml", tmp_path / "spool"
    version = write(plan_file, b"version: 1\n")
    assert keep(spool, plan_file, version, disk.files)
    (tmp_path / "left").mkdir()
    disk.after_power_failure(spool / archive.DIRECTORY, tmp_path / "left" / archive.DIRECTORY)
    disk.close()
    assert archive.find(tmp_path / "left", version) == b"version: 1\n"
