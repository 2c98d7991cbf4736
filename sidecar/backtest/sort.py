"""Any number of recorded calls in the order of account and time, each once, in bounded memory."""

import marshal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from heapq import merge
from itertools import islice
from tempfile import TemporaryFile, gettempdir
from typing import IO, Final

from sidecar.core.events.read import RecordedRequest
from sidecar.errors import SidecarError

ROOM: Final = 600_000  # calls in memory: some 250 MB; more are sorted on disk
BATCH: Final = 2_000

_recorded = partial(tuple.__new__, RecordedRequest)  # what `_make` does, in a third of the time


def in_order(calls: Iterable[RecordedRequest], *, room: int = ROOM) -> Iterator[RecordedRequest]:
    """Sorted by account and time; copies of one event are dropped. Reads all before the first.

    Raises SidecarError when the directory for temporary files is full.
    """
    source = iter(calls)
    with ExitStack() as files:
        runs = []
        part = sorted(islice(source, room))
        while len(part) == room:
            file = files.enter_context(TemporaryFile(prefix="sidecar-"))
            _write(file, part)
            runs.append(_read(file))
            part = sorted(islice(source, room))
        yield from _once(merge(*runs, part) if runs else part)


def _write(file: IO[bytes], calls: list[RecordedRequest]) -> None:
    try:
        for at in range(0, len(calls), BATCH):
            marshal.dump([tuple(call) for call in calls[at : at + BATCH]], file)
        marshal.dump(None, file)
        file.seek(0)
    except OSError as error:
        raise SidecarError(
            f"the directory for temporary files, {gettempdir()}, cannot be written: "
            f"{error.strerror}; name another one with TMPDIR"
        ) from None


def _read(file: IO[bytes]) -> Iterator[RecordedRequest]:
    # Nobody else can write this file: it has no name.
    while (batch := marshal.load(file)) is not None:  # noqa: S302
        yield from map(_recorded, batch)


def _once(calls: Iterable[RecordedRequest]) -> Iterator[RecordedRequest]:
    id_before, before = "", None
    for call in calls:
        if call.id != id_before or before is None or call.identity != before.identity:
            yield call
        id_before, before = call.id, call
