"""A plan file compiled in a process of its own: calls go on meanwhile, and what compiling takes of
memory ends with it.

That process writes the book to its standard output in pieces, each small enough to be read
between two calls.
"""

import asyncio
import gc
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from sidecar.config.values import printable
from sidecar.core.model import PlanBook
from sidecar.errors import ConfigError, Problem

PATIENCE_S: Final = 120  # a file of the largest size takes a tenth of it
PIECE: Final = 200  # accounts, say: half a millisecond
NICENESS: Final = 10  # calls come first
_CHILD: Final = f"from {__name__} import main; main()"
_LARGE: Final = ("entitlements", "accounts", "keys")  # what of a book may be


async def compile_apart(path: Path, patience_s: float = PATIENCE_S) -> PlanBook:
    """The plan book of a file. Raises ConfigError, also for a process that fails or is too slow.
    Leaves no process behind, however it ends."""
    try:
        process = _start(path, patience_s)
    except OSError as error:
        raise _failed(path, f"no process could be started: {error.strerror}") from None
    with process:
        reading = asyncio.ensure_future(asyncio.to_thread(process.communicate))
        try:
            async with asyncio.timeout(patience_s):
                told, errors = await asyncio.shield(reading)
        except TimeoutError:
            raise _failed(path, f"it takes more than {patience_s:g} s") from None
        finally:
            process.kill()
            await asyncio.wait([reading])  # the thread ends with the process
    if process.returncode != 0:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise _failed(path, f"exit code {process.returncode}: {printable(last)}")
    return await _assembled(told)


def _start(path: Path, patience_s: float) -> subprocess.Popen[bytes]:
    """Not by the loop: uvloop forks, which takes tens of milliseconds on a busy machine, and
    `subprocess` does not."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-c", _CHILD, path, str(patience_s)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us to hear
    )


def _failed(path: Path, why: str) -> ConfigError:
    remedy = "the file may be right: try again (SIGHUP or a restart)"
    message = f"this could not be compiled ({why}); {remedy}"
    return ConfigError([Problem(str(path), 1, 1, "", message)])


async def _assembled(told: bytes) -> PlanBook:
    """The book of these pieces; lets others have a turn after each. Raises ConfigError."""
    # Of our own child, which is as trusted as we are.
    pieces = pickle.Unpickler(BytesIO(told))  # noqa: S301
    book = pieces.load()
    if not isinstance(book, PlanBook):
        raise ConfigError(book)
    for _ in range(pieces.load()):
        name, part = pieces.load()
        getattr(book, name).update(part)  # nobody else has the book yet
        await asyncio.sleep(0)
    return book


def main() -> None:
    """Write the book, or the problems of the file, to standard output."""
    from sidecar.config.loading import load  # only this process pays for it

    signal.alarm(int(float(sys.argv[2])) + 1)  # nobody is left to stop us when our parent is killed
    os.nice(NICENESS)
    gc.disable()  # there is little garbage in half a second, and much to look through for it
    try:
        found: Any = load(Path(sys.argv[1]))
    except ConfigError as error:
        found = error.problems
    write(found, sys.stdout.buffer)


class _Pickler(pickle.Pickler):
    """Writes the nouns as calls of their classes: compiled ones take no state from outside."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, type) or not is_dataclass(value):
            return NotImplemented
        return type(value), tuple(getattr(value, each.name) for each in fields(value))


def write(found: Any, to: BinaryIO) -> None:
    """A book in pieces, that share what they have in common; or problems."""
    pickler = _Pickler(to, pickle.HIGHEST_PROTOCOL)
    if not isinstance(found, PlanBook):
        pickler.dump(found)
        return
    pickler.dump(replace(found, entitlements={}, accounts={}, keys={}))
    pieces = list(_pieces(found))
    pickler.dump(len(pieces))
    for piece in pieces:
        pickler.dump(piece)


def _pieces(book: PlanBook) -> Iterator[tuple[str, dict[Any, Any]]]:
    for name in _LARGE:
        items = list(getattr(book, name).items())
        for start in range(0, len(items), PIECE):
            yield name, dict(items[start : start + PIECE])
