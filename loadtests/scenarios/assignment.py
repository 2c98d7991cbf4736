"""What the Locust process of a scenario gets: addresses, duration and options."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import yaml

_VARIABLE: Final = "LOAD_ASSIGNMENT"


@dataclass(frozen=True)
class Options:
    """The options that all scenarios of a run share."""

    seconds: float = 20.0
    calls: int = 10_000
    timing: bool = True


@dataclass(frozen=True)
class Assignment:
    """The assignment of a Locust process, passed as JSON in the environment."""

    plans: str  # path of the plan file
    result: str  # path to which the report is written
    api: str  # address of the API itself
    sidecars: tuple[str, ...]  # addresses of the data ports
    capacity: float  # requests per second that the API can answer
    control: str  # address of the first sidecar's control port
    pid: int  # of the first sidecar
    seconds: float
    calls: int  # requests of the crowd
    timing: bool  # whether latency is judged

    def variables(self) -> dict[str, str]:
        """Environment variables for the process.

        `locustfile.py` has variables of its own, because people also run it without
        `loadtests.run`.
        """
        return {
            _VARIABLE: json.dumps(asdict(self)),
            "LOAD_PLANS": self.plans,
            "LOAD_SECONDS": str(self.seconds),
            "LOAD_RESULT": self.result,
        }

    @classmethod
    def read(cls) -> Self:
        """Read the assignment. Raises KeyError in a process that `loadtests.run` did not start."""
        fields = json.loads(os.environ[_VARIABLE])
        return cls(**fields | {"sidecars": tuple(fields["sidecars"])})

    def document(self) -> dict[str, Any]:
        """The plan file as YAML, read without the product's code."""
        read: dict[str, Any] = yaml.safe_load(Path(self.plans).read_text())
        return read
