"""Compile a plan file in a child process, so that requests continue and its memory is freed.

The child writes the plan book to its standard output in pieces. Each piece is small enough to be
unpickled between two requests.
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
from sidecar.core.entitlements import Entitlements
from sidecar.core.model import PlanBook
from sidecar.errors import ConfigError, Problem

TIMEOUT_S: Final = 120  # a file of the largest size takes a tenth of it
PIECE_ITEMS: Final = 200  # about half a millisecond to unpickle
NICENESS: Final = 10  # requests have priority
_CHILD: Final = f"from {__name__} import main; main()"
_LARGE: Final = ("accounts", "keys")  # parts of a book that are sent in pieces


async def compile_apart(path: Path, timeout_s: float = TIMEOUT_S) -> PlanBook:
    """The plan book of a file. No child process outlives this coroutine.

    Raises ConfigError if the file is invalid, or if the child fails or takes too long.
    """
    try:
        child = _start(path, timeout_s)
    except OSError as error:
        raise _failed(path, f"cannot start a process: {error.strerror}") from None
    with child:
        output = asyncio.ensure_future(asyncio.to_thread(child.communicate))
        try:
            async with asyncio.timeout(timeout_s):
                pieces, errors = await asyncio.shield(output)
        except TimeoutError:
            raise _failed(path, f"it takes more than {timeout_s:g} s") from None
        finally:
            child.kill()
            await asyncio.wait([output])  # the thread ends with the child
    if child.returncode != 0:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise _failed(path, f"exit code {child.returncode}: {printable(last)}")
    return await _assemble(pieces)


def _start(path: Path, timeout_s: float) -> subprocess.Popen[bytes]:
    """Start the child with `subprocess`, not with the event loop.

    uvloop forks, which takes tens of milliseconds on a busy machine; `subprocess` does not.
    """
    return subprocess.Popen(  # noqa: S603 - this interpreter and this module
        [sys.executable, "-P", "-c", _CHILD, path, str(timeout_s)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C must not reach the child
    )


def _failed(path: Path, reason: str) -> ConfigError:
    remedy = "the file may be valid: try again with SIGHUP or a restart"
    message = f"the plan file could not be compiled ({reason}); {remedy}"
    return ConfigError([Problem(str(path), 1, 1, "", message)])


async def _assemble(output: bytes) -> PlanBook:
    """The book from its pieces, with a switch to other tasks after each.

    Raises ConfigError if the child reported problems.
    """
    # The output is trusted: it comes from a child of this process.
    pieces = pickle.Unpickler(BytesIO(output))  # noqa: S301
    book = pieces.load()
    if not isinstance(book, PlanBook):
        raise ConfigError(book)
    for _ in range(pieces.load()):
        name, part = pieces.load()
        getattr(book, name).update(part)  # the book is not shared yet
        await asyncio.sleep(0)
    return book


def main() -> None:
    """Write the book, or the problems of the file, to standard output."""
    from sidecar.config.loading import load  # not imported by the parent, to save its memory

    signal.alarm(int(float(sys.argv[2])) + 1)  # ends the child even if its parent was killed
    os.nice(NICENESS)
    gc.disable()  # half a second makes little garbage, and a collection walks the whole book
    try:
        result: Any = load(Path(sys.argv[1]))
    except ConfigError as error:
        result = error.problems
    write(result, sys.stdout.buffer)


class _Pickler(pickle.Pickler):
    """Pickler that writes dataclasses as constructor calls: compiled classes accept no state."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, Entitlements):
            return Entitlements, value.parts
        if isinstance(value, type) or not is_dataclass(value):
            return NotImplemented
        return type(value), tuple(getattr(value, each.name) for each in fields(value))


def write(result: Any, to: BinaryIO) -> None:
    """Write a book in pieces that share their common values; or write problems."""
    pickler = _Pickler(to, pickle.HIGHEST_PROTOCOL)
    if not isinstance(result, PlanBook):
        pickler.dump(result)
        return
    pickler.dump(replace(result, accounts={}, keys={}))
    pieces = list(_pieces(result))
    pickler.dump(len(pieces))
    for piece in pieces:
        pickler.dump(piece)


def _pieces(book: PlanBook) -> Iterator[tuple[str, dict[Any, Any]]]:
    for name in _LARGE:
        items = list(getattr(book, name).items())
        for start in range(0, len(items), PIECE_ITEMS):
            yield name, dict(items[start : start + PIECE_ITEMS])
