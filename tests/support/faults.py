"""A disk whose operations fail as a test chooses, and the choices of a property test."""

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from sidecar.files import Files

# What the next operation does: None succeeds, an errno fails. Part of a failing write is written.
Fault = int | None
FAULTS = st.lists(
    st.sampled_from([None, None, None, errno.ENOSPC, errno.EIO, errno.EINTR]), max_size=30
)


class FaultyDisk:
    """Real files. Operations named in `kinds` follow the faults in order, then all succeed."""

    def __init__(
        self,
        faults: Sequence[Fault] = (),
        kinds: Sequence[str] = ("open", "write", "sync", "truncate", "rename"),
    ) -> None:
        self.failed = 0
        self._faults = list(faults)
        self._kinds = kinds
        self._lock = threading.Lock()
        self.armed = False
        self.files = Files(
            open=self._failing("open", os.open),
            write=self._write,
            sync=self._failing("sync", os.fdatasync),
            truncate=self._failing("truncate", os.ftruncate),
            rename=self._failing("rename", os.replace),
        )

    @property
    def left(self) -> int:
        """Faults that no operation has met yet."""
        return len(self._faults)

    def _next(self, kind: str) -> Fault:
        with self._lock:
            if not self.armed or kind not in self._kinds or not self._faults:
                return None
            fault = self._faults.pop(0)
            self.failed += fault is not None
            return fault

    def _failing(self, kind: str, does: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any) -> Any:
            fault = self._next(kind)
            if fault is not None:
                raise OSError(fault, os.strerror(fault))
            return does(*arguments)

        return operation

    def _write(self, fd: int, data: bytes | memoryview) -> int:
        fault = self._next("write")
        if fault is not None:
            if len(data) > 1:
                os.write(fd, data[: len(data) // 2])
            raise OSError(fault, os.strerror(fault))
        return os.write(fd, data)


def lines_of(path: Path) -> list[bytes]:
    """The lines of a file, of which the last one must be whole."""
    content = path.read_bytes()
    assert content.endswith(b"\n"), content[-100:]
    return content.split(b"\n")[:-1]
