"""Background tasks: failures reach the log, and a cancellation ends every task."""

import asyncio

import pytest

from sidecar.serve.background import cancel, run_in_background


async def test_a_failure_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        raise ValueError("wrong")

    task = run_in_background(fail())
    await asyncio.wait([task])
    await asyncio.sleep(0)
    logged = "".join(capsys.readouterr())
    assert "background_task_died" in logged and "fail" in logged
    assert "ValueError: wrong" in logged


async def test_a_task_that_ignores_a_cancellation_is_cancelled_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.serve.background.CANCEL_TIMEOUT_S", 0.001)
    ignored = 0

    async def ignore_twice() -> None:
        nonlocal ignored
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ignored += 1
                if ignored > 2:
                    raise

    task = run_in_background(ignore_twice())
    await asyncio.sleep(0)
    await cancel(task)
    assert (task.cancelled(), ignored) == (True, 3)
    assert "background_task_died" not in "".join(capsys.readouterr())


async def test_a_task_that_has_ended_needs_no_cancellation() -> None:
    async def end() -> None: ...

    task = run_in_background(end())
    await task
    await cancel(task)
    assert not task.cancelled()
