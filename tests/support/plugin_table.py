"""The table in plugins/README.md: a row per gateway, of what its test has just shown.

With PLUGINS_TABLE=write (`make plugins`), the tests write their rows. Otherwise a row must be in
the page; only the gateway's version may differ.
"""

import fcntl
import os
import re
import subprocess
from typing import NamedTuple

from tests.support.vectors import PLUGINS, VECTORS

PAGE = PLUGINS / "README.md"


class Row(NamedTuple):
    """What a gateway's test has shown, as texts."""

    gateway: str
    version: str
    vectors: int  # that passed
    settlement: str
    failure: str
    cannot: str

    def cells(self) -> list[str]:
        vectors = f"{self.vectors} of {len(VECTORS)}"
        classes = "critical, standard, deferrable"
        return [
            self.gateway, self.version, vectors, classes, self.settlement, "both ways",
            self.failure, self.cannot,
        ]  # fmt: skip


def record(row: Row) -> None:
    """Write or check the row of a gateway."""
    line = "| " + " | ".join(row.cells()) + " |"
    known = re.compile(rf"^\| {re.escape(row.gateway)} \|.*$", re.MULTILINE)
    if os.environ.get("PLUGINS_TABLE") == "write":
        with PAGE.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            text = file.read()
            assert known.search(text), f"add a row for {row.gateway} to {PAGE}"
            file.seek(0)
            file.truncate()
            file.write(known.sub(lambda _: line, text))
    found = known.search(PAGE.read_text())
    assert found, f"{PAGE} has no row for {row.gateway}"
    shown = [cell.strip() for cell in found[0].strip("|").split("|")]
    expected = row.cells()
    assert shown[:1] + shown[2:] == expected[:1] + expected[2:], "run make plugins"


def version_of(*command: str) -> str:
    """The first version number that a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    assert found, done
    return found[0]
