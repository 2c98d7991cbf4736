"""What a scenario has measured and which of its promises are broken: for people, and for the
process that started it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.checks import Verdict


@dataclass
class Report:
    """Without `timing`, how long things took is measured and not judged."""

    timing: bool = True
    numbers: dict[str, str] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)

    def record(self, name: str, value: str) -> None:
        """A number that was measured."""
        self.numbers[name] = value

    def check(self, true: bool, otherwise: str) -> None:
        """A promise; the sentence says how it is broken."""
        if not true:
            self.verdict.add(otherwise)

    def check_time(self, true: bool, otherwise: str) -> None:
        """A promise of how long something takes."""
        self.check(true or not self.timing, otherwise)

    @property
    def code(self) -> int:
        """The exit code: 0 when every promise was kept, else 1."""
        return 1 if self.verdict.broken else 0

    def show(self) -> None:
        """Print it."""
        for name, value in self.numbers.items():
            print(f"{name}: {value}")
        for line in self.verdict.lines():
            print("BROKEN", line)
        if not self.verdict.broken:
            print("Every promise was kept.")

    def write(self, path: Path) -> None:
        """For `read`."""
        path.write_text(json.dumps({"numbers": self.numbers, "broken": self.verdict.broken}))


def read(path: Path) -> Report:
    """What was written there. Raises OSError when nothing was."""
    told = json.loads(path.read_text())
    return Report(numbers=told["numbers"], verdict=Verdict(told["broken"]))
