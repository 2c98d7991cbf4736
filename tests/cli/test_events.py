"""events tail and verify on a real spool."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from sidecar.metering.spool import Spool


def write(directory: Path, count: int) -> None:
    """Events 0 to count-1, on disk."""

    async def run() -> None:
        spool = Spool(directory)
        spool.open()
        for number in range(count):
            spool.append({"specversion": "1.0", "id": f"event-{number}", "type": "api.request.v1"})
        await spool.close()

    asyncio.run(run())


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    directory = tmp_path / "spool"
    write(directory, 5)
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
        write(spool, 1)
        assert json.loads(process.stdout.readline())["id"] == "event-0"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""


def test_verify_says_ok_of_a_whole_spool(sidecar: Any, spool: Path) -> None:
    done = sidecar("events", "verify", "--spool", spool)
    assert done.returncode == 0
    assert f"{spool}: ok: 5 events in 1 files" in done.stdout


def test_verify_tells_a_missing_and_a_changed_event(sidecar: Any, spool: Path) -> None:
    (segment,) = spool.glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([lines[0], *lines[2:]]))
    done = sidecar("events", "verify", "--spool", spool)
    assert done.returncode == 1
    assert "are missing" in done.stdout
    assert "NOT whole: 1 events missing" in done.stdout
    segment.write_bytes(b"".join(lines).replace(b"event-2", b"event-X"))
    done = sidecar("events", "verify", "--spool", spool)
    assert done.returncode == 1
    assert "NOT whole: 0 events missing, 1 lines broken" in done.stdout


@pytest.mark.parametrize("verb", ["tail", "verify"])
def test_a_directory_that_is_no_spool_is_a_sentence(
    sidecar: Any, tmp_path: Path, verb: str
) -> None:
    done = sidecar("events", verb, "--spool", tmp_path / "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "try: another directory with --spool DIR" in done.stderr
    assert "Traceback" not in done.stderr
