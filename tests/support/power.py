"""A disk that forgets what was not synced, for tests of a power failure.

It is strict: only a sync of a file keeps its content, and only a sync of a directory keeps the
names in it. `ignored` names the kinds of syncs that do nothing: "file" or "directory". A real disk
may also keep what was not synced. `eager`: it keeps removed names, and no other change.
"""

import os
import stat
from collections.abc import Collection
from pathlib import Path

from sidecar.files import Files

Entries = dict[str, int]  # name → inode


class Disk:
    """Real files, and what a power failure would leave of them."""

    def __init__(self, ignored: Collection[str] = (), *, eager: bool = False) -> None:
        self._ignored = ignored
        self._eager = eager
        self._contents: dict[int, bytes] = {}  # by inode, as of its last sync
        self._entries: dict[int, Entries] = {}  # by inode of the directory
        self._held: list[int] = []  # inodes stay unique while these descriptors are open
        self.files = Files(open=self._open, sync=self._sync, remove=self._remove)

    def _open(self, path: Path, flags: int, mode: int) -> int:
        fd = os.open(path, flags, mode)
        self._held.append(os.dup(fd))
        return fd

    def _remove(self, path: Path) -> None:
        path.unlink()
        if self._eager:
            self._entries.get(path.parent.stat().st_ino, {}).pop(path.name, None)

    def _sync(self, fd: int) -> None:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            if "directory" not in self._ignored:
                names = os.listdir(fd)
                self._entries[status.st_ino] = {
                    name: os.stat(name, dir_fd=fd).st_ino for name in names
                }
        elif "file" not in self._ignored:
            with open(f"/proc/self/fd/{fd}", "rb") as file:  # noqa: PTH123
                self._contents[status.st_ino] = file.read()

    def after_power_failure(self, directory: Path, target: Path) -> Path:
        """Write what is left of the directory to `target`, and return that."""
        target.mkdir()
        entries = self._entries.get(directory.stat().st_ino, {})
        for name, inode in entries.items():
            (target / name).write_bytes(self._contents.get(inode, b""))
        return target

    def close(self) -> None:
        """Close the descriptors that keep inodes from being used again."""
        for fd in self._held:
            os.close(fd)
        self._held.clear()
