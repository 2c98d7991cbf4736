"""Every error this package raises on purpose.

"No" is a value (a `Refusal`), "can't tell" is an exception: nothing here is raised
because a customer ran out of quota.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class SidecarError(Exception):
    """Base class. `str(error)` is a sentence for the person who runs the sidecar."""


class SettingsError(SidecarError):
    """A flag, environment variable or settings file is wrong: exit code 2."""


class StoreUnavailable(SidecarError):
    """Redis did not answer in time, or not in a way that can be trusted."""


class SpoolError(SidecarError):
    """The event spool cannot be opened, written or trusted."""


class SinkDown(SidecarError):
    """A sink cannot take events now; the batch stays in the spool and is tried again."""


class SinkRefused(SidecarError):
    """A sink says that it will never take this batch (a poison event is in it)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a plan file, and what to write instead."""

    file: str
    line: int  # from 1
    column: int  # from 1
    path: str  # plans.free.limits[0].rate; "" for the file as a whole
    message: str  # what is wrong; what to write instead

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class ConfigError(SidecarError):
    """A plan file is wrong. Carries every problem found, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
