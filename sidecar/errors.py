"""Every error that this package raises on purpose.

A decision, such as a refusal, is a value. An error means that the sidecar cannot decide or cannot
run: a used up quota never raises one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


class SidecarError(Exception):
    """Base class. `str(error)` has one line per problem: `WHERE: WHAT; WHAT TO DO`."""


class SettingsError(SidecarError):
    """A flag, environment variable or settings file is invalid: exit code 2.

    `warnings` has a line for each misspelt environment variable, which may be the cause.
    """

    def __init__(self, message: str, warnings: Sequence[str] = ()) -> None:
        self.warnings = tuple(warnings)
        super().__init__(message)


class ManifestError(SidecarError):
    """A Kubernetes manifest is invalid, or has no room for the sidecar: exit code 2."""


class StoreUnavailable(SidecarError):
    """Redis did not answer in time, or its answer cannot be trusted."""


class SpoolError(SidecarError):
    """The event spool cannot be opened, written or trusted."""


class SpoolFilesMissing(OSError):
    """Files of an open spool were removed, renamed or replaced. Handled like a full disk."""


class SinkDown(SidecarError):
    """A sink cannot store events now. The batch stays in the spool and is shipped again."""


class SinkRefused(SidecarError):
    """A sink will never store this batch, because one of its events is invalid."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a plan file, and its remedy."""

    file: str
    line: int  # from 1; 0: the file cannot be read at all
    column: int  # from 1
    path: str  # plans.free.limits[0].rate; "" for the file as a whole
    message: str  # what is wrong; what to write instead

    def __str__(self) -> str:
        return self._line("")

    def as_warning(self) -> str:
        """The line of a problem that does not make the file invalid."""
        return self._line("warning: ")

    def _line(self, kind: str) -> str:
        position = f":{self.line}:{self.column}" if self.line else ""
        where = f"{self.file}{position}: {kind}"
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


class ConfigError(SidecarError):
    """A plan file is invalid. `problems` has all of its problems, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def terminal_lines(error: SidecarError, remedy: str = "") -> Iterator[str]:
    """The lines `error: WHERE: WHAT` and `try: WHAT TO DO` of an error, for a terminal.

    `remedy` is for a line that has none. The problems of a plan file stay one line each, as
    `sidecar check` prints them, and have one remedy in common.
    """
    if isinstance(error, ConfigError):
        yield from _plan_file_lines(error)
        return
    for line in str(error).split("\n"):
        yield from _lines("error", line, remedy)
    for line in error.warnings if isinstance(error, SettingsError) else ():
        yield from _lines("warning", line, remedy)


def _plan_file_lines(error: ConfigError) -> Iterator[str]:
    for problem in error.problems:
        if problem.line:
            yield f"error: {problem}"
        else:
            what, _, advice = problem.message.rpartition("; ")
            yield f"error: --plans: {problem.file} {what}"
            yield f"try: {advice} with --plans FILE"
    if any(problem.line for problem in error.problems):
        yield "try: run sidecar check FILE until it prints ok"


def _lines(kind: str, line: str, remedy: str) -> Iterator[str]:
    problem, separator, advice = line.rpartition("; ")
    yield f"{kind}: {problem if separator else line}"
    if separator or remedy:
        yield f"try: {advice if separator else remedy}"
