"""Runs cases one after the other and prints their verdicts: attacks, and faults of Redis."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from loadtests.processes import DidNotStart, Stack


class Verdict(Protocol):
    """One line of a table. `wrong`: the violations, as sentences."""

    @property
    def name(self) -> str: ...
    @property
    def wrong(self) -> tuple[str, ...]: ...


_V = TypeVar("_V", bound=Verdict)


def arguments(
    parser: argparse.ArgumentParser, args: Sequence[str] | None, *, reason: str = ""
) -> argparse.Namespace:
    """Parse a command line with `--seconds`. `reason`: why a case takes at least 1 s."""
    options = parser.parse_args(args)
    if options.seconds < 1:
        parser.error(f"--seconds must be at least 1{reason}")
    return options


def run_cases(
    titles: Mapping[str, str],
    run: Callable[[Stack, str], _V],
    table: Callable[[Sequence[_V]], Iterator[str]],
) -> int:
    """Run each case, print its title before and the table at the end. Returns the exit code."""
    rows: list[_V] = []
    try:
        for name, title in titles.items():
            print(f"{title} …", flush=True)
            with Stack() as stack:
                rows.append(run(stack, name))
    except DidNotStart as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("Stopped; nothing is left running.")
        return 130
    print(*table(rows), sep="\n")
    return 1 if any(row.wrong for row in rows) else 0


def lines(
    heads: Sequence[str], rows: Sequence[_V], cells: Callable[[_V], Sequence[str]], fine: str
) -> Iterator[str]:
    """Yield the lines of a table, with a verdict as its last column, then what is wrong.

    `fine`: the last line if nothing is.
    """
    table = [(*heads, "verdict")]
    table += [(*cells(row), "BROKEN" if row.wrong else "ok") for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()
    for row in rows:
        yield from (f"{row.name}: {sentence}" for sentence in row.wrong)
    broken = [row.name for row in rows if row.wrong]
    yield f"Broken: {', '.join(broken)}." if broken else fine
