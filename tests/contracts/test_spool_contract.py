"""The contract of `ports.Spool`: every test runs on every spool.

tests/metering has what is specific to the spool on disk: chain, recovery, segments, full disks.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from sidecar.ports import Spool
from tests.support.events import a_spool, an_event, ids, lines_in, until


@dataclass
class Case:
    """An open spool whose buffer holds a few dozen events, and the lines on its disk."""

    spool: Spool
    on_disk: Callable[[], list[bytes]]


@asynccontextmanager
async def of_segments(directory: Path) -> AsyncIterator[Case]:
    async with a_spool(directory, max_waiting_bytes=32_768) as spool:
        yield Case(spool, lambda: lines_in(directory))


Adapter = Callable[[Path], AbstractAsyncContextManager[Case]]
ADAPTERS: dict[str, Adapter] = {"segments": of_segments}


@pytest.fixture(params=ADAPTERS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractAsyncContextManager[Case]:
    return ADAPTERS[request.param](tmp_path)


def names(first: int, last: int) -> list[str]:
    return [f"event-{number}" for number in range(first, last + 1)]


async def test_appended_events_reach_the_disk_in_order_without_a_flush(
    opened: AbstractAsyncContextManager[Case],
) -> None:
    async with opened as case:
        for number in range(1, 11):
            case.spool.append(an_event(number))
        await until(lambda: len(case.on_disk()) == 10)
        case.spool.append(an_event(11))
        await until(lambda: len(case.on_disk()) == 11)
        assert ids(case.on_disk()) == names(1, 11)


async def test_an_event_keeps_all_its_attributes(opened: AbstractAsyncContextManager[Case]) -> None:
    event = an_event(1, subject='株式会社 \n "quoted"', data={"usage": {"tokens": 2**53 - 1}})
    async with opened as case:
        case.spool.append(event)
        await until(case.on_disk)
        (line,) = case.on_disk()
        assert event.items() <= orjson.loads(line).items()


async def test_a_change_after_append_does_not_change_the_event(
    opened: AbstractAsyncContextManager[Case],
) -> None:
    event = an_event(1)
    async with opened as case:
        case.spool.append(event)
        event["data"]["usage"]["requests"] = 99
        await until(case.on_disk)
        assert orjson.loads(case.on_disk()[0])["data"]["usage"] == {"requests": 1}


async def test_I4_all_events_appended_while_it_accepted_are_kept(
    opened: AbstractAsyncContextManager[Case],
) -> None:
    last = 0
    async with opened as case:
        for _ in range(3):
            assert case.spool.accepting
            while case.spool.accepting and last < 10_000:  # without a pause, so it fills up
                last += 1
                case.spool.append(an_event(last))
            assert not case.spool.accepting
            await until(lambda: case.spool.accepting)
    assert ids(case.on_disk()) == names(1, last)


async def test_I4_buffered_events_are_written_when_the_spool_closes(
    opened: AbstractAsyncContextManager[Case],
) -> None:
    async with opened as case:
        for number in range(1, 21):
            case.spool.append(an_event(number))
    assert ids(case.on_disk()) == names(1, 20)


async def test_a_closed_spool_does_not_accept(opened: AbstractAsyncContextManager[Case]) -> None:
    async with opened as case:
        assert case.spool.accepting
    assert not case.spool.accepting
    case.spool.append(an_event(1))  # raises nothing: append runs in the middle of a request
    assert case.on_disk() == []
