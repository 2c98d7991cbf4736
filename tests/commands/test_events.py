"""`sidecar events tail` and `sidecar events verify` on real spools."""

import asyncio
import json
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from sidecar.metering.spool import Spool


def write(directory: Path, numbers: Iterable[int]) -> None:
    """Write events with these numbers; the number is also the second of the time."""

    async def run() -> None:
        spool = Spool(directory)
        spool.open()
        for number in numbers:
            spool.append({
                "specversion": "1.0", "id": f"event-{number}", "type": "api.request.v1",
                "time": f"2026-11-23T08:30:{number:02d}.000Z",
            })  # fmt: skip
        await spool.close()

    asyncio.run(run())


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    directory = tmp_path / "spool"
    write(directory, range(5))
    return directory


def ids(output: str) -> list[str]:
    return [json.loads(line)["id"] for line in output.splitlines()]


def test_tail_prints_the_last_events(sidecar: Any, spool: Path) -> None:
    done = sidecar("events", "tail", "-n", "2", "--spool", spool)
    assert done.returncode == 0, done.stderr
    assert ids(done.stdout) == ["event-3", "event-4"]


def test_tail_finds_the_spool_by_its_variable(sidecar: Any, spool: Path) -> None:
    assert len(ids(sidecar("events", "tail", SIDECAR_SPOOL=str(spool)).stdout)) == 5


def test_tail_follows_until_interrupted(spawn: Any, spool: Path) -> None:
    process = spawn("events", "tail", "-n", "1", "--follow", "--spool", spool)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["id"] == "event-4"
        write(spool, [5])
        assert json.loads(process.stdout.readline())["id"] == "event-5"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""


def test_verify_reports_a_whole_spool_as_ok(sidecar: Any, spool: Path) -> None:
    done = sidecar("events", "verify", "--spool", spool)
    assert done.returncode == 0
    assert f"{spool}: ok: 5 events in 1 file, seq 1 to 5\n" in done.stdout


def test_verify_reports_a_missing_and_a_changed_event(sidecar: Any, spool: Path) -> None:
    (segment,) = spool.glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([lines[0], *lines[2:]]))
    done = sidecar("events", "verify", "--spool", spool)
    assert done.returncode == 1
    assert "are missing" in done.stdout
    assert "NOT whole: 1 event missing, 0 lines broken; 4 events in 1 file" in done.stdout
    segment.write_bytes(b"".join(lines).replace(b"event-2", b"event-X"))
    done = sidecar("events", "verify", "--spool", spool)
    assert done.returncode == 1
    assert "NOT whole: 0 events missing, 1 line broken" in done.stdout


def test_verify_names_the_range_and_the_line_of_a_gap_in_a_sink(
    sidecar: Any, tmp_path: Path, spool: Path
) -> None:
    [segment] = spool.glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    sink = tmp_path / "usage.jsonl"
    sink.write_bytes(b"".join(lines))
    done = sidecar("events", "verify", "--events", sink)
    assert (done.returncode, done.stdout) == (0, f"{sink}: ok: 5 events in 1 file, seq 1 to 5\n")
    sink.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    done = sidecar("events", "verify", "--events", sink)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{sink}:3: events 3 to 3 are missing",
        f"{sink}: NOT whole: 1 event missing, 0 lines broken; 4 events in 1 file, seq 1 to 5",
    ]


@pytest.fixture
def workers(tmp_path: Path) -> Path:
    """A directory with the spools of two workers, whose events alternate."""
    write(tmp_path / "worker-0", [0, 3, 4])
    write(tmp_path / "worker-1", [1, 2, 5])
    return tmp_path


def test_verify_checks_the_spool_of_every_worker(sidecar: Any, workers: Path) -> None:
    done = sidecar("events", "verify", "--spool", workers)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{workers}/worker-0: ok: 3 events in 1 file, seq 1 to 3",
        f"{workers}/worker-1: ok: 3 events in 1 file, seq 1 to 3",
    ]


def test_one_worker_whose_spool_is_not_whole_is_named(sidecar: Any, workers: Path) -> None:
    write(workers, [6])  # the spool of a sidecar without workers
    (segment,) = (workers / "worker-1").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b"event-2", b"event-X"))
    done = sidecar("events", "verify", "--spool", workers)
    assert done.returncode == 1
    problem, *_ = [line for line in done.stdout.splitlines() if ".jsonl:" in line]
    assert problem.startswith(f"{segment}:")
    assert f"{workers}: ok: 1 event in 1 file, seq 1 to 1\n" in done.stdout
    assert f"{workers}/worker-0: ok" in done.stdout
    assert f"{workers}/worker-1: NOT whole" in done.stdout


def test_tail_merges_the_events_of_all_workers_by_time(sidecar: Any, workers: Path) -> None:
    done = sidecar("events", "tail", "-n", "4", "--spool", workers)
    assert done.returncode == 0, done.stderr
    assert ids(done.stdout) == ["event-2", "event-3", "event-4", "event-5"]
    assert sidecar("events", "tail", "-n", "0", "--spool", workers).stdout == ""


def test_tail_follows_every_worker(spawn: Any, workers: Path) -> None:
    process = spawn("events", "tail", "-n", "2", "--follow", "--spool", workers)
    with process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["id"] for _ in range(2)]
        write(workers / "worker-1", [6])
        seen.append(json.loads(process.stdout.readline())["id"])
        write(workers / "worker-0", [7])
        seen.append(json.loads(process.stdout.readline())["id"])
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert seen == ["event-4", "event-5", "event-6", "event-7"]


@pytest.mark.parametrize("command", ["tail", "verify"])
def test_a_missing_directory_is_an_error(sidecar: Any, tmp_path: Path, command: str) -> None:
    done = sidecar("events", command, "--spool", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"error: --spool: {tmp_path}/nowhere cannot be read: No such file or directory",
        "try: name another directory with --spool DIR (SIDECAR_SPOOL)",
    ]


@pytest.mark.parametrize("command", ["tail", "verify"])
def test_a_directory_without_a_spool_is_an_error_with_a_remedy(
    sidecar: Any, tmp_path: Path, command: str
) -> None:
    (tmp_path / "worker-0").mkdir()
    done = sidecar("events", command, "--spool", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"error: --spool: {tmp_path} contains no spool",
        "try: name the directory of serve --spool DIR (SIDECAR_SPOOL)",
    ]


def test_a_wrong_setting_that_the_command_does_not_need_is_ignored(
    sidecar: Any, spool: Path
) -> None:
    done = sidecar("events", "verify", "--spool", spool, SIDECAR_LISTEN="8080")
    assert done.returncode == 0, done.stderr
