"""External sort of recorded requests by account and time, without copies, in bounded memory."""

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

IN_MEMORY: Final = 600_000  # requests, about 250 MB; larger inputs are sorted on disk
BATCH: Final = 2_000  # requests in one marshalled record

_request = partial(tuple.__new__, RecordedRequest)  # `_make` takes three times as long


def in_order(
    requests: Iterable[RecordedRequest], *, in_memory: int = IN_MEMORY
) -> Iterator[RecordedRequest]:
    """Yield the requests by account and time, one per event.

    Reads all requests before it yields the first one. Keeps at most `in_memory` of them in memory
    and the others in temporary files. Raises SidecarError if such a file cannot be written.
    """
    source = iter(requests)
    with ExitStack() as files:
        runs = []
        part = sorted(islice(source, in_memory))
        while len(part) == in_memory:
            file = files.enter_context(TemporaryFile(prefix="sidecar-"))
            _write(file, part)
            runs.append(_read(file))
            part = sorted(islice(source, in_memory))
        yield from _without_copies(merge(*runs, part) if runs else part)


def _write(file: IO[bytes], requests: list[RecordedRequest]) -> None:
    try:
        for at in range(0, len(requests), BATCH):
            marshal.dump([tuple(request) for request in requests[at : at + BATCH]], file)
        marshal.dump(None, file)
        file.seek(0)
    except OSError as error:
        raise SidecarError(
            f"temporary directory {gettempdir()}: cannot be written: {error.strerror}; "
            "name another one with TMPDIR"
        ) from None


def _read(file: IO[bytes]) -> Iterator[RecordedRequest]:
    # The file has no name, so no other process can write it.
    while (batch := marshal.load(file)) is not None:  # noqa: S302
        yield from map(_request, batch)


def _without_copies(requests: Iterable[RecordedRequest]) -> Iterator[RecordedRequest]:
    previous_id, previous = "", None
    for request in requests:
        if request.id != previous_id or previous is None or request.identity != previous.identity:
            yield request
        previous_id, previous = request.id, request
