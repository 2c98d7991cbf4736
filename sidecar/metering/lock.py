"""The lock of a spool directory: one process at a time. The kernel frees it when that ends."""

import fcntl
import os
from pathlib import Path

from sidecar.errors import SpoolError
from sidecar.files import Files


def take_lock(directory: Path, files: Files) -> int:
    """Lock the directory, and create it if it is missing.

    Returns the descriptor that holds the lock until it is closed. Raises SpoolError if the
    directory cannot be written or another process holds the lock.
    """
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        lock = files.open(directory / "lock", flags, 0o640)
    except (FileExistsError, NotADirectoryError) as error:
        cause = "it is" if isinstance(error, FileExistsError) else "a part of its path is"
        raise SpoolError(
            f"--spool: {directory} is not writable: {cause} a file; "
            "name another directory with --spool DIR (SIDECAR_SPOOL)"
        ) from None
    except OSError as error:
        raise SpoolError(
            f"--spool: {directory} is not writable: {error.strerror}; make it writable for this "
            "user, or name another directory with --spool DIR (SIDECAR_SPOOL)"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        owner = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise SpoolError(
            f"--spool: {directory} is in use by another process (pid {owner}); "
            "give each sidecar its own directory with --spool DIR (SIDECAR_SPOOL)"
        ) from None
    except OSError as error:
        os.close(lock)
        raise SpoolError(
            f"--spool: {directory} cannot be locked: {error.strerror}; name a directory on a "
            "local disk with free space with --spool DIR (SIDECAR_SPOOL)"
        ) from None
    return lock
