"""One process per spool directory: the kernel frees the lock however its owner ends."""

import fcntl
import os
from pathlib import Path

from sidecar.errors import SpoolError
from sidecar.files import Files


def take_lock(directory: Path, files: Files) -> int:
    """The descriptor that holds the lock until it is closed. Makes the directory if need be.

    Raises SpoolError when it cannot be written or is somebody else's.
    """
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        lock = files.open(directory / "lock", flags, 0o640)
    except (FileExistsError, NotADirectoryError) as error:
        what = "it is" if isinstance(error, FileExistsError) else "a part of its path is"
        raise SpoolError(
            f"The spool directory {directory} is not writable: {what} a file."
            " Give another one with --spool DIR (SIDECAR_SPOOL)."
        ) from None
    except OSError as error:
        raise SpoolError(
            f"The spool directory {directory} is not writable: {error.strerror}."
            " Make it writable for this user, or give another one with --spool DIR (SIDECAR_SPOOL)."
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        owner = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise SpoolError(
            f"The spool {directory} is in use by another process (pid {owner})."
            " Give each sidecar a directory of its own with --spool DIR (SIDECAR_SPOOL)."
        ) from None
    except OSError as error:
        os.close(lock)
        raise SpoolError(
            f"The spool {directory} cannot be locked: {error.strerror}."
            " Give a directory on a local disk with room with --spool DIR (SIDECAR_SPOOL)."
        ) from None
    return lock
