"""Temporary copies of the tree, in which mutants are tested. The checkout stays as it is."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

from tests.mutants.patches import ROOT, Mutant

COPIED: Final = ("sidecar", "tests", "loadtests", "docs", "examples", "pyproject.toml", "README.md")
NOTHING_FAILED, SOMETHING_FAILED, NOT_COLLECTED = 0, 1, 2  # exit statuses of pytest
HANG: Final = ("-o", "timeout=60")  # seconds; a mutant often makes a test wait for ever
_FAILURE: Final = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class BrokenRun(Exception):
    """A test run that says nothing about a mutant, such as one without tests."""


class Result(NamedTuple):
    """What the tests said. `killed_by`: the test that failed; "" if all passed."""

    mutant: Mutant
    line: int
    killed_by: str


class Copy:
    """One copy of the tree. It has one mutant at a time; not thread-safe."""

    def __init__(self, directory: Path, limit_s: float) -> None:
        self._root = directory
        self._limit_s = limit_s
        self._process: subprocess.Popen[str] | None = None
        for name in COPIED:
            source, target = ROOT / name, directory / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)

    def check(self, tests: Sequence[str]) -> None:
        """Run tests without a mutant. Raises BrokenRun if one fails."""
        failure = self._failure(tests, None)
        if failure:
            raise BrokenRun(f"{failure} fails without a mutant; repair that first")

    def run(self, mutant: Mutant) -> Result:
        """Test a mutant: its own tests first, then those of its room. Raises BrokenRun."""
        path = self._root / mutant.file
        text = path.read_text()
        self._replace(path, mutant.applied_to(text))
        end = monotonic() + self._limit_s
        try:
            failure = self._failure(mutant.tests, end) or self._failure(mutant.room_tests, end)
        finally:
            self._replace(path, text)
        return Result(mutant, mutant.line_in(text), failure)

    def _replace(self, path: Path, text: str) -> None:
        path.write_text(text)
        # Python compares seconds and sizes: too coarse to see a quick change of one character.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)

    def _failure(self, tests: Sequence[str], end: float | None) -> str:
        """Return the first test that fails, "time limit", or "" if all pass."""
        timeout = self._limit_s * 4 if end is None else max(0.01, end - monotonic())
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *HANG]
        process = subprocess.Popen(
            [*command, "--hypothesis-profile=fixed", *tests],
            cwd=self._root,
            env={**os.environ, "PYTHONPATH": str(self._root)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._process = process
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return "time limit"
        finally:
            self.stop()
            process.communicate()
        if process.returncode == NOTHING_FAILED:
            return ""
        found = _FAILURE.search(output)
        if process.returncode not in (SOMETHING_FAILED, NOT_COLLECTED) or found is None:
            raise BrokenRun(f"pytest ended with {process.returncode}:\n{output[-2000:]}")
        return found[1]

    def stop(self) -> None:
        """Kill the tests and what they have started, such as a Valkey. Idempotent."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
