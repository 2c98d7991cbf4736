"""Signals request a shutdown, and hurry it the second time."""

import asyncio
import os
import signal

import pytest

from sidecar.serve.shutdown import SIGNALS, Shutdown


@pytest.mark.parametrize(("first", "skip_delay"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
@pytest.mark.parametrize("second", SIGNALS)
async def test_the_first_signal_requests_and_the_second_hurries(
    first: signal.Signals, second: signal.Signals, skip_delay: bool
) -> None:
    shutdown = Shutdown()
    shutdown.handle_signals()
    try:
        os.kill(os.getpid(), first)
        await shutdown.requested.wait()
        assert (shutdown.skip_delay, shutdown.hurried.is_set()) == (skip_delay, False)
        os.kill(os.getpid(), second)
        await shutdown.hurried.wait()
        assert shutdown.skip_delay == skip_delay
    finally:
        for number in SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)


def loop_at(monkeypatch: pytest.MonkeyPatch, times: list[float]) -> None:
    """Let the event loop's clock return these times, one per read."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: times.pop(0))


async def test_the_delay_counts_from_the_announcement(monkeypatch: pytest.MonkeyPatch) -> None:
    shutdown = Shutdown()
    assert shutdown.delay_s(5) == 0  # not requested
    with monkeypatch.context() as clock:
        loop_at(clock, [100.0, 103.0, 200.0])
        shutdown.announce()
        shutdown.request()
        assert shutdown.delay_s(5) == 2
        assert shutdown.delay_s(5) == 0


async def test_the_delay_is_whole_without_an_announcement_and_zero_if_it_is_skipped() -> None:
    announced: list[bool] = []
    shutdown = Shutdown()
    shutdown.on_announced = lambda: announced.append(True)
    shutdown.request()
    shutdown.announce()  # too late
    assert (shutdown.delay_s(5), shutdown.announced, announced) == (5, False, [])
    hasty = Shutdown()
    hasty.announce()
    hasty.request(skip_delay=True)
    assert hasty.delay_s(5) == 0


async def test_an_announcement_runs_its_callback_once() -> None:
    announced: list[bool] = []
    shutdown = Shutdown()
    shutdown.on_announced = lambda: announced.append(True)
    shutdown.announce()
    shutdown.announce()
    assert announced == [True]
