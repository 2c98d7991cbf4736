"""What a scenario's Locust process is told: where things are, and how long it has."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import yaml

_NAME: Final = "LOAD_ASSIGNMENT"


@dataclass(frozen=True)
class Options:
    """What is the same for all scenarios of a run."""

    seconds: float = 20.0
    calls: int = 10_000
    timing: bool = True


@dataclass(frozen=True)
class Assignment:
    """Goes through the environment, as JSON."""

    plans: str  # path of the plan file
    result: str  # path to which the report is written
    api: str  # address of the API itself, past the sidecar; "" when it tells nothing
    sidecars: tuple[str, ...]  # addresses for customers
    capacity: float  # calls that the API can answer in a second
    control: str  # of the first sidecar
    pid: int  # of the first sidecar
    seconds: float
    calls: int  # of a crowd
    timing: bool  # whether how long things took is judged

    def environment(self) -> dict[str, str]:
        """How it is handed over. What `locustfile.py` reads has variables of its own: people run
        it by itself."""
        return {
            _NAME: json.dumps(asdict(self)),
            "LOAD_PLANS": self.plans,
            "LOAD_SECONDS": str(self.seconds),
            "LOAD_RESULT": self.result,
        }

    @classmethod
    def read(cls) -> Self:
        """Raises KeyError in a process that `loadtests.run` has not started."""
        fields = json.loads(os.environ[_NAME])
        return cls(**fields | {"sidecars": tuple(fields["sidecars"])})

    def document(self) -> dict[str, Any]:
        """The plan file, read here and not by the product."""
        read: dict[str, Any] = yaml.safe_load(Path(self.plans).read_text())
        return read
