"""Archive of plan files: the text behind each `plan_version` of usage events.

A file is named after its SHA-256, which is also the version. So it can be checked, and writing a
version again changes nothing.
"""

import hashlib
import re
from pathlib import Path
from typing import Final

from sidecar.files import Files
from sidecar.logs import logger

DIRECTORY: Final = "plans"  # below the directory of the spool
MAX_VERSIONS: Final = 1_000
_VERSION: Final = re.compile(r"sha256:([0-9a-f]{64})")
_log = logger("config")


def archive(
    directory: Path, plan_file: Path, version: str, files: Files, text: bytes | None = None
) -> bool:
    """Keep the plan file if its content is this version. Returns whether it is kept now.

    `text`: the content, if it is known; else the file is read. Blocks. Keeps at most 1,000
    versions: the oldest ones are deleted. A failure is logged.
    """
    try:
        text = plan_file.read_bytes() if text is None else text
        if "sha256:" + hashlib.sha256(text).hexdigest() != version:
            return False  # it has changed since; its next version is archived when it is live
        directory.mkdir(mode=0o750, exist_ok=True)
        path = _path(directory, version)
        if path is not None and not path.exists():
            files.replace(path, text)
            files.sync_directory(directory)
            _delete_oldest(directory, files)
    except OSError as error:
        _log.error("plan_file_not_archived", version=version, error=error.strerror)
        return False
    return True


def _delete_oldest(directory: Path, files: Files) -> None:
    kept = sorted(directory.glob("*.yaml"), key=lambda path: path.stat().st_mtime)
    for path in kept[:-MAX_VERSIONS]:
        files.remove(path)


def _path(directory: Path, version: str) -> Path | None:
    found = _VERSION.fullmatch(version)
    return None if found is None else directory / f"{found[1]}.yaml"


def find(spool: Path, version: str) -> bytes | None:
    """Return the plan file of a version from the archive of a spool or of its workers' spools.

    None if it is not there, or if its content has changed. Raises OSError.
    """
    for directory in (spool / DIRECTORY, *sorted(spool.glob(f"worker-*/{DIRECTORY}"))):
        path = _path(directory, version)
        if path is not None and path.exists():
            text = path.read_bytes()
            if "sha256:" + hashlib.sha256(text).hexdigest() == version:
                return text
    return None


def text_of(spool: Path, plan_file: Path, version: str) -> bytes | None:
    """Return the text of a version, from the archive of a spool or from the plan file itself.

    None if neither has it. Blocks.
    """
    try:
        text = find(spool, version)
        if text is None:
            text = plan_file.read_bytes()
    except OSError:
        return None
    return text if "sha256:" + hashlib.sha256(text).hexdigest() == version else None


def versions(spool: Path) -> list[str]:
    """Return the archived versions, the oldest first. Raises OSError."""
    paths = [*spool.glob(f"{DIRECTORY}/*.yaml"), *spool.glob(f"worker-*/{DIRECTORY}/*.yaml")]
    paths.sort(key=lambda path: path.stat().st_mtime)
    return list(dict.fromkeys(f"sha256:{path.stem}" for path in paths))
