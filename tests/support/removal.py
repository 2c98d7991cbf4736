"""Removes a directory that a process still writes to."""

import shutil
from pathlib import Path


def remove(directory: Path) -> None:
    """Remove a directory in one step: a file that appears in it during that would be an error."""
    away = directory.with_name(f"{directory.name}.removed")
    directory.rename(away)
    shutil.rmtree(away)
