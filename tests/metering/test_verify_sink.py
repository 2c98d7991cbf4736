"""`events verify --events`: the files of a sink, with copies, rotation and compression."""

import gzip
from pathlib import Path

import pytest

from sidecar.errors import SpoolError
from sidecar.metering.segments import parse_line
from sidecar.metering.verify_sink import verify_sink
from tests.support.events import fill, lines_in


@pytest.fixture
async def lines(tmp_path: Path) -> list[bytes]:
    await fill(tmp_path / "spool", 12)
    return lines_in(tmp_path / "spool")


@pytest.fixture
async def other_lines(tmp_path: Path) -> list[bytes]:
    await fill(tmp_path / "other-spool", 12)
    return lines_in(tmp_path / "other-spool")


def write(path: Path, lines: list[bytes]) -> None:
    content = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_rotated_and_compressed_files_with_copies_are_whole(
    tmp_path: Path, lines: list[bytes]
) -> None:
    write(tmp_path / "usage.jsonl", lines[6:])
    write(tmp_path / "usage.jsonl.1", lines[3:8])  # the last two were sent again
    write(tmp_path / "usage.jsonl.2.gz", lines[:4])
    report = verify_sink(tmp_path / "usage.jsonl")
    assert report.ok and (report.events, report.segments) == (15, 3)
    assert verify_sink(tmp_path).events == 15


def test_the_oldest_files_may_be_deleted(tmp_path: Path, lines: list[bytes]) -> None:
    write(tmp_path / "usage.jsonl", lines[5:])
    assert verify_sink(tmp_path / "usage.jsonl").ok


def test_missing_lines_are_a_gap(tmp_path: Path, lines: list[bytes]) -> None:
    write(tmp_path / "usage.jsonl", lines[8:])
    write(tmp_path / "usage.jsonl.1", lines[:5])
    report = verify_sink(tmp_path / "usage.jsonl")
    assert (report.missing, report.broken) == (3, 0)
    assert [str(gap) for gap in report.gaps] == ["usage.jsonl:1: events 6 to 8 are missing"]
    assert (report.first_seq, report.last_seq) == (1, 12)


def test_gaps_of_several_spools_are_named_where_the_chain_goes_on(
    tmp_path: Path, lines: list[bytes], other_lines: list[bytes]
) -> None:
    write(tmp_path / "usage.jsonl.1", [*lines[:3], *other_lines[4:8], *lines[1:3]])
    write(tmp_path / "usage.jsonl", [*other_lines[9:], *lines[5:]])
    report = verify_sink(tmp_path / "usage.jsonl")
    first, second = (parse_line(one[0]) for one in (lines, other_lines))
    assert first is not None and second is not None
    assert {str(gap) for gap in report.gaps} == {
        f"usage.jsonl:4: events 4 to 5 of spool {first.spool} are missing",
        f"usage.jsonl:1: events 9 to 9 of spool {second.spool} are missing",
    }
    assert report.spools == sorted([first.spool, second.spool])
    assert (report.first_seq, report.last_seq) == (None, None)


def test_files_below_a_directory_are_named_with_their_folder(
    tmp_path: Path, lines: list[bytes]
) -> None:
    (tmp_path / "worker-0").mkdir()
    write(tmp_path / "worker-0" / "usage.jsonl", [*lines[:4], *lines[6:9], b"noise"])
    report = verify_sink(tmp_path)
    problems = [str(problem) for problem in (*report.gaps, *report.breaks)]
    assert problems == [
        "worker-0/usage.jsonl:5: events 5 to 6 are missing",
        "worker-0/usage.jsonl:8: not an event of a spool",
    ]


@pytest.mark.parametrize("at", [0, 4, 5, 6])
def test_a_changed_line_is_found_also_at_the_end_of_a_file(
    tmp_path: Path, lines: list[bytes], at: int
) -> None:
    lines[at] = lines[at].replace(b'"requests":1', b'"requests":0')
    write(tmp_path / "usage.jsonl", lines[5:])
    write(tmp_path / "usage.jsonl.1", lines[:5])
    report = verify_sink(tmp_path / "usage.jsonl")
    assert (report.missing, report.broken) == (0, 1)


def test_noise_is_found_and_a_torn_last_line_is_not_read(
    tmp_path: Path, lines: list[bytes]
) -> None:
    path = tmp_path / "usage.jsonl"
    write(path, [*lines[:6], b"noise", *lines[6:]])
    path.write_bytes(path.read_bytes() + b'{"spool":')
    report = verify_sink(path)
    assert (report.events, report.broken) == (12, 1)


def test_a_path_without_events_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="contains no events"):
        verify_sink(tmp_path / "missing.jsonl")


@pytest.mark.parametrize("at", [0, 2, 5, 11])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_copy_that_differs_is_broken(
    tmp_path: Path, lines: list[bytes], at: int, elsewhere: bool
) -> None:
    """A copy has the same number and the same hash before it, so only its content can tell."""
    changed = lines[at].replace(b'"specversion":"1.0"', b'"specversion":"1.1"')
    assert changed != lines[at]
    rest = [*lines[:2], lines[at], changed]
    write(tmp_path / "usage.jsonl", [*lines, *([] if elsewhere else rest)])
    if elsewhere:
        write(tmp_path / "usage.jsonl.1", rest)
    report = verify_sink(tmp_path / "usage.jsonl")
    assert report.broken >= 1
    assert any(f"event {at + 1} is there twice, and differs" in str(one) for one in report.breaks)


@pytest.mark.parametrize("number", [b"0", b"-5"])
def test_a_line_with_a_number_that_no_spool_has_is_broken(
    tmp_path: Path, lines: list[bytes], number: bytes
) -> None:
    forged = lines[0].replace(b'"seq":1,', b'"seq":%b,' % number)
    write(tmp_path / "usage.jsonl", [forged, *lines])
    report = verify_sink(tmp_path / "usage.jsonl")
    assert (report.broken, report.events, report.first_seq) == (1, 12, 1)
