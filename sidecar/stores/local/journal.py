"""The requests that this process allowed without Redis, on disk until Redis has charged them.

Rules of this file:
- The `Charger` has each entry in memory, too. The disk is for a process that dies, so a failed
  write refuses no request: it is counted and logged.
- A process has one file at a time. Its first entry creates it, and it is deleted when all of it
  is charged. A locked file belongs to a running process.
- All files of a process have one id and one numbering, as Redis stores the id for each account.
- One worker thread writes and syncs, in groups.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar.core.kinds import PeriodLimit
from sidecar.core.model import Account, Claim
from sidecar.core.shares import Snapshot
from sidecar.files import Files
from sidecar.logs import logger
from sidecar.stores.local.journal_format import (
    Entry,
    JournalHeader,
    Owner,
    entry_line,
    header_line,
    owner_line,
)

log = logger("journal")

SUFFIX: Final = ".journal"
NEW_SUFFIX: Final = ".new"  # until it is locked
MOST_OWNERS: Final = 20_000
MOST_BUFFERED: Final = 8 << 20  # bytes that are not written yet
RETRY_SECONDS: Final = 1.0
CREATE_RETRIES: Final = 3
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC


@dataclass(slots=True)
class _File:
    """The open journal. `size`: bytes that are synced to disk."""

    header: JournalHeader
    path: Path
    has_header: bool = False
    fd: int | None = None  # None until the first commit
    size: int = 0
    dirty: bool = False  # there may be bytes after `size`
    owners: dict[tuple[object, ...], tuple[int, Owner]] = field(default_factory=dict)


class Journal:
    """The journal of this process, for one event loop.

    `id` is unique for all time. `unwritten` counts entries that are only in memory.
    """

    def __init__(
        self,
        directory: Path,
        disk: Files,
        *,
        identity: str,
        max_bytes: int = 64 << 20,
        commit_window_s: float = 0.02,
    ) -> None:
        self.directory = directory
        self.id = identity
        self.unwritten = 0
        self._seq = 0
        self._disk = disk
        self._max_bytes = max_bytes
        self._window = commit_window_s
        self._file: _File | None = None
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._batch: list[bytes] = []
        self._writing: asyncio.Future[None] | None = None
        self._writing_to: _File | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._failure = ""

    def add(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        at_us: int,
        *,
        sidecars: int,
        snapshot_of: Callable[[PeriodLimit], Snapshot],
        hold_id: str | None = None,
        is_open: bool = False,
        reported: Sequence[int] = (),
    ) -> int:
        """Add one request; the number of its entry. Never blocks, never raises.

        `reported`: the overage that its event reports, of each claim on a quota or a team's share.
        """
        file = self._file
        if file is None:
            file = self._file = _File(
                JournalHeader(self.id, sidecars), self.directory / (self.id + SUFFIX)
            )
        self._seq += 1
        lines = [] if file.has_header else [header_line(file.header)]
        quotas = tuple(claim.limit for claim in claims if isinstance(claim.limit, PeriodLimit))
        name = (account.id, key_id, *map(id, quotas))
        owner = file.owners.get(name)
        if owner is None:
            # The owner refers to its quotas, so that their id() stays theirs.
            snapshots = tuple(map(snapshot_of, quotas))
            owner = len(file.owners), Owner(account, key_id, quotas, snapshots)
            lines.append(owner_line(*owner))
        costs = tuple(claim.cost for claim in claims if isinstance(claim.limit, PeriodLimit))
        entry = Entry(self._seq, owner[0], at_us, costs, hold_id, is_open, tuple(reported))
        lines.append(entry_line(entry))
        if owner[0] < MOST_OWNERS and self._put(lines):
            file.has_header = True
            file.owners[name] = owner
        else:
            self.unwritten += 1
        return self._seq

    def _put(self, lines: Sequence[bytes]) -> bool:
        size = sum(map(len, lines))
        on_disk = self._file.size if self._file else 0
        waiting = self._buffered_bytes + size
        if waiting > MOST_BUFFERED or on_disk + waiting > self._max_bytes:
            self._log_failure(f"it is full: {on_disk + waiting} of {self._max_bytes} bytes")
            return False
        self._buffer += lines
        self._buffered_bytes = waiting
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._window, self._commit)
        return True

    def _log_failure(self, error: str) -> None:
        if not self._failure:
            log.error("journal_write_failed", directory=str(self.directory), error=error)
        self._failure = error

    # Commits start on the loop and run on the worker thread.

    def _commit(self) -> None:
        self._timer = None
        if self._writing is not None or not self._buffer or self._file is None:
            return
        self._batch, self._buffer = self._buffer, []
        data, file = b"".join(self._batch), self._file
        self._writing_to = file
        self._writing = asyncio.get_running_loop().run_in_executor(
            self._worker, self._write, file, data
        )
        self._writing.add_done_callback(self._on_written)

    def _on_written(self, result: "asyncio.Future[None]") -> None:
        self._writing = None
        lines, self._batch = self._batch, []
        error = result.exception()
        if error is None or self._writing_to is not self._file:
            self._buffered_bytes -= sum(map(len, lines))
            if error is None and self._failure:
                log.info("journal_write_recovered", error=self._failure)
                self._failure = ""
        else:
            self._buffer[:0] = lines
            self._log_failure(getattr(error, "strerror", None) or repr(error))
        if self._buffer and self._timer is None:
            delay = self._window if error is None else RETRY_SECONDS
            self._timer = asyncio.get_running_loop().call_later(delay, self._commit)

    def _write(self, file: _File, data: bytes) -> None:
        """Append whole lines durably, or leave the file as it was. Raises OSError."""
        if file.fd is None:
            file.fd = self._create(file.path)
        if file.dirty:
            self._disk.truncate(file.fd, file.size)
        file.dirty = True
        self._disk.write_all(file.fd, data)
        self._disk.sync(file.fd)
        file.dirty = False
        file.size += len(data)

    def _create(self, path: Path) -> int:
        """Create the file, again if another process finds it unlocked and deletes it."""
        for _ in range(CREATE_RETRIES):
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                return self._create_once(path)
        return self._create_once(path)

    def _create_once(self, path: Path) -> int:
        """Create a file that is locked before it has its name: an unlocked one is abandoned."""
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        new = path.with_suffix(NEW_SUFFIX)
        new.unlink(missing_ok=True)  # left by a failed attempt
        fd = self._disk.open(new, _CREATE, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._disk.rename(new, path)
            self._disk.sync_directory(path.parent)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def discard(self) -> None:
        """Delete the file, as all of it is charged. The next entry creates another one."""
        file, self._file = self._file, None
        if file is None:
            return
        self._buffer.clear()
        self._buffered_bytes = sum(map(len, self._batch))
        asyncio.get_running_loop().run_in_executor(self._worker, self._delete, file)

    def _delete(self, file: _File) -> None:
        if file.fd is None:
            return
        try:
            self._disk.remove(file.path)
            self._disk.sync_directory(file.path.parent)
        except OSError as error:
            # A later process charges it again, which changes nothing: see lua/limits/charge.lua.
            log.warning("journal_not_deleted", file=str(file.path), error=error.strerror)
        os.close(file.fd)
        file.fd = None

    async def close(self) -> None:
        """Write what is not written yet, once, and close the file. Idempotent."""
        for _ in range(2):  # the write that is running, then the rest
            self._cancel_timer()
            self._commit()
            writing = self._writing
            if writing is not None:
                await asyncio.wait([writing])
        self._cancel_timer()
        self._worker.shutdown()
        file, self._file = self._file, None
        if file is not None and file.fd is not None:
            os.close(file.fd)
