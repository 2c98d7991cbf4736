"""The measurements and violations of a scenario, for people and for the parent process."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.checks import Verdict


@dataclass
class Report:
    """The report of a scenario.

    Without `timing`, latency is measured but not judged.
    """

    timing: bool = True
    numbers: dict[str, str] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)

    def record(self, name: str, value: str) -> None:
        """Record a measurement."""
        self.numbers[name] = value

    def check(self, condition: bool, violation: str) -> None:
        """Check a guarantee; the sentence states the violation."""
        if not condition:
            self.verdict.add(violation)

    def check_time(self, condition: bool, violation: str) -> None:
        """Check a guarantee about latency."""
        self.check(condition or not self.timing, violation)

    @property
    def code(self) -> int:
        """The exit code: 0 if every guarantee held, else 1."""
        return 1 if self.verdict.broken else 0

    def show(self) -> None:
        """Print the measurements and the violations."""
        for name, value in self.numbers.items():
            print(f"{name}: {value}")
        for line in self.verdict.lines():
            print("BROKEN", line)
        if not self.verdict.broken:
            print("Every guarantee held.")

    def write(self, path: Path) -> None:
        """Write the report for `read`."""
        path.write_text(json.dumps({"numbers": self.numbers, "broken": self.verdict.broken}))


def read(path: Path) -> Report:
    """Read the report at this path. Raises OSError if it does not exist."""
    document = json.loads(path.read_text())
    return Report(numbers=document["numbers"], verdict=Verdict(document["broken"]))
