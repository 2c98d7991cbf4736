"""`python -m tests.mutants`: put one bug after the other into a copy, and see which the tests find.

The copies are in a temporary folder. A mutant is killed if a test fails or does not end in time.
It fails if a room has a lower score than the least, or if tests fail without a mutant.
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tests.mutants.copies import BrokenRun, Copy, Result
from tests.mutants.patches import Mutant, read_mutants

COLUMNS: Final = ("file", "line", "bug", "killed by")
LEAST_PERCENT: Final = 90  # of a room's mutants


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--only", default="", metavar="ROOM|FILE", help="mutants of these only")
    parser.add_argument("--count", type=int, default=0, help="of mutants, by chance (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice with --count (0)")
    parser.add_argument("--jobs", type=int, default=1, help="copies at the same time (1)")
    parser.add_argument("--limit", type=float, default=600, help="seconds for one mutant (600)")
    parser.add_argument("--unchecked", action="store_true", help="skip the run without a mutant")
    options = parser.parse_args(args)
    if options.jobs < 1 or options.count < 0 or options.limit <= 0:
        parser.error("--jobs and --limit must be above 0, and --count not below")
    return options


def chosen(mutants: Sequence[Mutant], only: str, count: int, seed: int) -> list[Mutant]:
    """Return the mutants of a room or of files whose path ends so, or some of them by chance."""
    some = [one for one in mutants if not only or one.room == only or one.file.endswith(only)]
    if not count or count >= len(some):
        return some
    picked = set(random.Random(seed).sample(range(len(some)), count))
    return [one for at, one in enumerate(some) if at in picked]


def run(mutants: Sequence[Mutant], options: argparse.Namespace, console: Console) -> list[Result]:
    """Test the mutants, and print each result when it is known. Raises BrokenRun."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        paths = [Path(folder) / str(number) for number in range(options.jobs)]
        copies = [Copy(path, options.limit) for path in paths]
        try:
            if not options.unchecked:
                copies[0].check(sorted({path for one in mutants for path in one.tests}))
            return _in_copies(mutants, copies, console)
        finally:
            for copy in copies:
                copy.stop()


def _in_copies(mutants: Sequence[Mutant], copies: list[Copy], console: Console) -> list[Result]:
    unused: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        unused.put(copy)

    def test(mutant: Mutant) -> Result:
        copy = unused.get()
        try:
            result = copy.run(mutant)
        finally:
            unused.put(copy)
        place = f"{mutant.file}:{result.line}"
        line = f"{place}: {result.killed_by or 'SURVIVED'}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        return result

    with ThreadPoolExecutor(len(copies)) as pool:
        try:
            return list(pool.map(test, mutants))
        except BaseException:  # as on Ctrl-C: do not wait for the tests that run
            pool.shutdown(wait=False, cancel_futures=True)
            for copy in copies:
                copy.stop()
            raise


def scores(results: Sequence[Result]) -> dict[str, tuple[int, int]]:
    """Return the killed mutants and all mutants of each room."""
    by_room: dict[str, tuple[int, int]] = {}
    for result in results:
        killed, all_of_it = by_room.get(result.mutant.room, (0, 0))
        by_room[result.mutant.room] = killed + bool(result.killed_by), all_of_it + 1
    return by_room


def report(results: Sequence[Result], console: Console) -> bool:
    """Print the table and the scores. Returns whether each room has the least score."""
    table = Table(*(Column(name, overflow="fold") for name in COLUMNS))
    for result in results:
        killed_by = result.killed_by or "SURVIVED"
        row = result.mutant.file, str(result.line), result.mutant.why, killed_by
        table.add_row(*map(escape, row))
    console.print(table)
    good = True
    for room, (killed, all_of_it) in scores(results).items():
        enough = killed * 100 >= all_of_it * LEAST_PERCENT
        good = good and enough
        verdict = "" if enough else f", less than {LEAST_PERCENT} %"
        console.print(
            f"{room}: {killed} of {all_of_it} killed ({killed * 100 // all_of_it} %)", verdict
        )
    return good


def main(args: Sequence[str] | None = None) -> int:
    """Run, and return the exit status: 1 for a low score, 2 if the run says nothing."""
    options, console = arguments(args), Console()
    mutants = chosen(read_mutants(), options.only, options.count, options.seed)
    if not mutants:
        console.print(f'error: --only: no mutant is in "{options.only}"')
        return 2
    os.nice(10)
    try:
        results = run(mutants, options, console)
    except BrokenRun as error:
        console.print(f"error: {error}", markup=False)
        return 2
    return 0 if report(results, console) else 1


if __name__ == "__main__":
    sys.exit(main())
