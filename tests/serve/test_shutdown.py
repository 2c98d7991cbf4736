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
