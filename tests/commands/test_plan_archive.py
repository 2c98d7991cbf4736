"""`sidecar plans list` and `sidecar plans show` on a real archive."""

import hashlib
import signal
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.archive import DIRECTORY, archive, find
from sidecar.files import Files
from sidecar.stores import PlanFiles, connect
from tests.support.removal import remove
from tests.support.servers import free_port


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
    assert "note: these are the versions of the spool: --redis (SIDECAR_REDIS): " in listed.stderr
    assert (listed.returncode, listed.stdout) == (0, version + "\n")
    shown = sidecar("plans", "show", version, "--spool", tmp_path / "spool")
    assert (shown.returncode, shown.stdout) == (0, "version: 1\n")


def test_an_unknown_version_is_an_error(sidecar: Any, tmp_path: Path, version: str) -> None:
    done = sidecar("plans", "show", version[:-1] + "g", "--spool", tmp_path / "spool")
    assert done.returncode != 0
    assert "has no plan file of version" in done.stderr
    assert "sidecar plans list" in done.stderr


async def test_14_a_version_is_listed_and_printed_from_redis(
    sidecar: Any, tmp_path: Path, version: str, valkey_url: str
) -> None:
    other = "sha256:" + hashlib.sha256(b"other").hexdigest()
    wire = connect(valkey_url, timeout_s=5.0)
    await wire.start()
    for name, text in ((version, b"version: 1\n"), (other, b"other")):
        await PlanFiles(wire, "qs").keep(name, text)
    await wire.stop()
    here = ("--spool", tmp_path / "spool", "--redis", valkey_url)
    gone = ("--spool", tmp_path / "none", "--redis", valkey_url)
    assert sidecar("plans", "list", *here).stdout == f"{version}\n{other}\n"
    assert sidecar("plans", "list", *gone).stdout == f"{version}\n{other}\n"
    for where, name, text in ((here, other, "other"), (gone, version, "version: 1\n")):
        shown = sidecar("plans", "show", name, *where)
        assert (shown.returncode, shown.stdout) == (0, text)
    missing = sidecar("plans", "show", "sha256:ab", *here)
    assert missing.returncode == 2
    assert "and neither has Redis" in missing.stderr


def test_14_without_a_spool_and_without_redis_there_are_no_versions(
    sidecar: Any, tmp_path: Path
) -> None:
    nowhere = ("--spool", tmp_path / "none", "--redis", f"redis://127.0.0.1:{free_port()}/0")
    for code, *command in ((1, "list"), (2, "show", "sha256:ab")):
        done = sidecar("plans", *command, *nowhere)
        assert done.returncode == code
        assert " refuses connections\ntry: " in done.stderr


def test_14_a_spool_directory_that_is_created_again_gets_the_live_plan_file(
    spawn: Any, tmp_path: Path
) -> None:
    spool, plans = tmp_path / "spool", tmp_path / "plans.yaml"
    plans.write_text(
        'version: 1\nmeters: {requests: {unit: request}}\nroutes: [{id: rest, match: "/**"}]\n'
        "plans: {p: {}}\nanonymous: {plan: p}\n"
    )
    name = "sha256:" + hashlib.sha256(plans.read_bytes()).hexdigest()
    process = spawn(
        "serve", "--plans", plans, "--spool", spool, "--redis", "redis://127.0.0.1:1/0",
        "--upstream", "http://127.0.0.1:1", "--listen", f"127.0.0.1:{free_port()}",
        "--control", f"127.0.0.1:{free_port()}",
    )  # fmt: skip
    with process:
        _read_until(process.stderr, "sidecar_serving")
        remove(spool)
        _read_until(process.stderr, "spool_files_missing")
        spool.mkdir()
        _read_until(process.stderr, "spool_recovered")
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(20) == 0
    assert find(spool, name) == plans.read_bytes()


def _read_until(lines: Any, event: str) -> None:
    while event not in (line := lines.readline()):
        assert line, f"serve ended before {event}"
