"""Flags that exclude each other: no command accepts both and ignores one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sidecar.cli import build, run


def switches(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Each switch with two flags, of all commands: the words of its command, and the flags."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from switches(inner, (*path, name))
    for parameter in command.params:
        if parameter.secondary_opts:
            yield (*path, parameter.opts[0], parameter.secondary_opts[0])


ALL = list(switches(typer.main.get_command(build())))


def test_all_commands_are_looked_at() -> None:
    assert ("accounts", "set", "--suspend", "--resume") in ALL
    assert ("rebuild", "--apply", "--dry-run") in ALL
    assert ("serve", "--access-log", "--no-access-log") in ALL


@pytest.mark.parametrize("words", ALL, ids=" ".join)
@pytest.mark.parametrize("order", [1, -1])
def test_both_flags_of_a_switch_are_an_error(
    words: tuple[str, ...], order: int, capsys: pytest.CaptureFixture[str]
) -> None:
    *path, one, other = words
    assert run([*path, *(one, other)[::order]]) == 2
    assert capsys.readouterr() == ("", f"error: give one of {one} and {other}\n")


def test_words_after_two_dashes_are_not_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["accounts", "set", "--suspend", "--", "--resume"]) == 2
    assert 'ACCOUNT: "--resume" is not an id' in capsys.readouterr().err


def test_verify_reads_a_spool_or_the_files_of_a_sink(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path)
    assert run(["events", "verify", "--events", place, "--spool", place]) == 2
    assert capsys.readouterr().err == "error: give one of --events and --spool\n"
