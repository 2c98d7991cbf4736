"""File operations as one object, so that a test can make each of them fail."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Files:
    """System calls with the signatures of `os`, and what is built from them. All may block."""

    open: Callable[[Path, int, int], int] = os.open
    write: Callable[[int, bytes | memoryview], int] = os.write
    sync: Callable[[int], None] = os.fdatasync
    truncate: Callable[[int, int], None] = os.ftruncate
    allocate: Callable[[int, int, int], None] = os.posix_fallocate
    rename: Callable[[Path, Path], None] = os.replace
    remove: Callable[[Path], None] = os.unlink

    def write_all(self, fd: int, data: bytes) -> None:
        """Write all data, in several system calls if necessary. Raises OSError."""
        view = memoryview(data)
        while view:
            view = view[self.write(fd, view) :]

    def replace(self, path: Path, content: bytes) -> None:
        """Replace the content of `path` atomically: a crash leaves the old or the new file."""
        new = path.with_name(path.name + ".tmp")
        fd = self.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            self.write_all(fd, content)
            self.sync(fd)
        finally:
            os.close(fd)
        self.rename(new, path)

    def sync_directory(self, directory: Path) -> None:
        """Make created, renamed and removed names in the directory durable."""
        fd = self.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0)
        try:
            self.sync(fd)
        finally:
            os.close(fd)
