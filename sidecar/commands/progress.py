"""Long work says now and then on stderr how far it is."""

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

EVERY_S: Final = 2.0
LOOK: Final = 5_000  # things between two looks at the clock

Thing = TypeVar("Thing")


def watched(
    things: Iterable[Thing],
    say: Callable[[int], str],
    *,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Thing]:
    """The same things; `say` puts into words how many have passed, every two seconds."""
    last = now()
    for number, thing in enumerate(things, 1):
        if number % LOOK == 0 and now() - last >= EVERY_S:
            last = now()
            print(say(number), file=sys.stderr, flush=True)  # noqa: T201 - for whoever waits
        yield thing


@contextmanager
def without_gc() -> Iterator[None]:
    """Millions of values that refer to nothing are not searched for circles again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
