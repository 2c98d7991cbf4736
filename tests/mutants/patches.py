"""The list of mutants. Each TOML file in this folder has those of one room of `sidecar/`.

A mutant replaces one text of one file. Its `tests` are those that should find it; they run first.
A change that no behaviour shows is not a mutant: it does not belong in the list.
"""

import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = Path(__file__).parent


class Mutant(NamedTuple):
    """A replacement of `old` by `new` in `file`, and what the bug is."""

    room: str
    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]
    room_tests: tuple[str, ...]

    def line_in(self, text: str) -> int:
        """Return the line, from 1, in which the two texts first differ."""
        common = next(
            (at for at, (a, b) in enumerate(zip(self.old, self.new, strict=False)) if a != b),
            min(len(self.old), len(self.new)),
        )
        return text.count("\n", 0, text.index(self.old) + common) + 1

    def applied_to(self, text: str) -> str:
        """Return the mutated text. Raises ValueError unless `old` occurs exactly once."""
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f'{self.file}: "{self.old}" occurs {count} times; write it anew')
        return text.replace(self.old, self.new)


def read_mutants(folder: Path = FOLDER) -> list[Mutant]:
    """Return all mutants, by room and file."""
    return [
        mutant
        for path in sorted(folder.glob("*.toml"))
        for mutant in _of_room(path.stem, tomllib.loads(path.read_text()))
    ]


def _of_room(room: str, content: dict[str, Any]) -> list[Mutant]:
    return [
        Mutant(
            room,
            file["path"],
            mutant["old"].strip("\n"),
            mutant["new"].strip("\n"),
            mutant["why"],
            tuple(mutant.get("tests", file["tests"])),
            tuple(content["tests"]),
        )
        for file in content["file"]
        for mutant in file["mutant"]
    ]
