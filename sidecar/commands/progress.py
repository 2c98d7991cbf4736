"""What commands that read recorded events print on stderr: progress and warnings."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from sidecar.commands.output import echo
from sidecar.core.text import amount

if TYPE_CHECKING:
    from sidecar.metering.event_reader import ReadSummary

INTERVAL_S: Final = 2.0
BATCH: Final = 5_000  # items between two readings of the clock

Item = TypeVar("Item")


def show_progress(
    items: Iterable[Item],
    message: Callable[[int], str],
    *,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Item]:
    """Yield the items, and print `message` of their number about every two seconds."""
    last = now()
    for number, item in enumerate(items, 1):
        if number % BATCH == 0 and now() - last >= INTERVAL_S:
            last = now()
            echo(message(number), err=True)
        yield item


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector: it would scan millions of values that form no cycle."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def print_warnings(events: "ReadSummary") -> None:
    """Print the lines that are not events, and the number of files that disappeared."""
    for line in events.broken_lines:
        echo(f"warning: {line}", err=True)
    if events.broken > len(events.broken_lines):
        echo(f"warning: {events.broken:,} broken lines in total", err=True)
    if events.vanished:
        files = amount(events.vanished, "file")
        echo(f"warning: {files} shipped and deleted before they could be read", err=True)
