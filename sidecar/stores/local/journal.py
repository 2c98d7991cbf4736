"""What this process let pass without Redis' answer, on disk, until Redis was told.

Laws of this file. Whatever is taken is also kept in memory by whoever charges it: the disk is for
the process that dies. So nothing here refuses a call: what the disk does not take is counted and
logged. One file at a time, made with the first entry and deleted when all of it is charged; its
lock says that its process is alive. All files of a process have one id and one numbering: the id
leaves a trace in Redis for each account. Commits are made on one worker thread, in groups.
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

from sidecar.core.model import Account, Claim, QuotaLimit
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
UNBORN: Final = ".new"  # until it is locked
MOST_OWNERS: Final = 20_000
MOST_WAITING: Final = 8 << 20  # bytes that wait for the disk
RETRY_SECONDS: Final = 1.0
CREATED_AGAIN: Final = 3
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC


@dataclass(slots=True)
class _File:
    """The open journal. `size`: bytes that are safe on disk."""

    header: JournalHeader
    path: Path
    begun: bool = False  # its first line is taken
    fd: int | None = None  # None until the first commit
    size: int = 0
    dirty: bool = False  # bytes after `size` may be there
    owners: dict[tuple[object, ...], tuple[int, Owner]] = field(default_factory=dict)


class Journal:
    """Belongs to one loop. `id` names it and no other, ever. `unwritten`: entries that only the
    memory has."""

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
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._in_flight: list[bytes] = []
        self._writing: asyncio.Future[None] | None = None
        self._writing_to: _File | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._trouble = ""

    def add(
        self,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        at_us: int,
        *,
        sidecars: int,
        look: Callable[[QuotaLimit], Snapshot],
        hold_id: str | None = None,
        is_open: bool = False,
    ) -> int:
        """Take one call; the number of its entry. Never blocks, never raises."""
        file = self._file
        if file is None:
            file = self._file = _File(
                JournalHeader(self.id, sidecars), self.directory / (self.id + SUFFIX)
            )
        self._seq += 1
        lines = [] if file.begun else [header_line(file.header)]
        quotas = tuple(claim.limit for claim in claims if isinstance(claim.limit, QuotaLimit))
        name = (account.id, key_id, *map(id, quotas))
        owner = file.owners.get(name)
        if owner is None:
            # Kept with its quotas, so that their ids stay theirs.
            owner = len(file.owners), Owner(account, key_id, quotas, tuple(map(look, quotas)))
            lines.append(owner_line(*owner))
        costs = tuple(claim.cost for claim in claims if isinstance(claim.limit, QuotaLimit))
        lines.append(entry_line(Entry(self._seq, owner[0], at_us, costs, hold_id, is_open)))
        if owner[0] < MOST_OWNERS and self._put(lines):
            file.begun = True
            file.owners[name] = owner
        else:
            self.unwritten += 1
        return self._seq

    def _put(self, lines: Sequence[bytes]) -> bool:
        size = sum(map(len, lines))
        on_disk = self._file.size if self._file else 0
        waiting = self._waiting_bytes + size
        if waiting > MOST_WAITING or on_disk + waiting > self._max_bytes:
            self._complain(f"it is full: {on_disk + waiting} of {self._max_bytes} bytes")
            return False
        self._waiting += lines
        self._waiting_bytes = waiting
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._window, self._fire)
        return True

    def _complain(self, why: str) -> None:
        if not self._trouble:
            log.error("journal_write_failed",
                      directory=str(self.directory), error=why)  # fmt: skip
        self._trouble = why

    # Commits: decided on the loop, carried out on the worker thread.

    def _fire(self) -> None:
        self._timer = None
        if self._writing is not None or not self._waiting or self._file is None:
            return
        self._in_flight, self._waiting = self._waiting, []
        data, file = b"".join(self._in_flight), self._file
        self._writing_to = file
        self._writing = asyncio.get_running_loop().run_in_executor(
            self._worker, self._write, file, data
        )
        self._writing.add_done_callback(self._written)

    def _written(self, result: "asyncio.Future[None]") -> None:
        self._writing = None
        lines, self._in_flight = self._in_flight, []
        error = result.exception()
        if error is None or self._writing_to is not self._file:
            self._waiting_bytes -= sum(map(len, lines))
            if error is None and self._trouble:
                log.info("journal_write_recovered", was=self._trouble)
                self._trouble = ""
        else:
            self._waiting[:0] = lines
            self._complain(getattr(error, "strerror", None) or repr(error))
        if self._waiting and self._timer is None:
            delay = self._window if error is None else RETRY_SECONDS
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

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
        """Who looks for files of the dead may find this one before it is locked, and delete it:
        then it is made anew."""
        for _ in range(CREATED_AGAIN):
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                return self._create_once(path)
        return self._create_once(path)

    def _create_once(self, path: Path) -> int:
        """A file under its name is locked: whoever finds it unlocked knows its owner to be dead."""
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        new = path.with_suffix(UNBORN)
        new.unlink(missing_ok=True)  # of an attempt that failed
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
        """All of it is charged: the next entry begins another one."""
        file, self._file = self._file, None
        if file is None:
            return
        self._waiting.clear()
        self._waiting_bytes = sum(map(len, self._in_flight))
        asyncio.get_running_loop().run_in_executor(self._worker, self._delete, file)

    def _delete(self, file: _File) -> None:
        if file.fd is None:
            return
        try:
            self._disk.remove(file.path)
            self._disk.sync_directory(file.path.parent)
        except OSError as error:
            # It is charged again after a restart, which changes nothing: see lua/limits/charge.lua.
            log.warning("journal_not_deleted", file=str(file.path), error=error.strerror)
        os.close(file.fd)
        file.fd = None

    async def close(self) -> None:
        """Write what waits, once, and let go of the file. Idempotent."""
        for _ in range(2):  # what is being written, then what waits
            self._cancel_timer()
            self._fire()
            writing = self._writing
            if writing is not None:
                await asyncio.wait([writing])
        self._cancel_timer()
        self._worker.shutdown()
        file, self._file = self._file, None
        if file is not None and file.fd is not None:
            os.close(file.fd)
