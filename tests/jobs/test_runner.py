"""The job runner: order, bounds, leases, retries and the end of the process. In virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sidecar.core.jobs.job import (
    RECHECK_US,
    JobFailure,
    JobOutcome,
    JobState,
    Postponed,
)
from sidecar.core.kinds import MICRO
from tests.support.job_stage import DONE, JobStage, a_job
from tests.support.virtual_time import in_virtual_time

Work = Callable[[], Awaitable[Any]]


def virtual(work: Work) -> Callable[[], None]:
    """Run a test in virtual time."""

    def run() -> None:
        in_virtual_time(work())

    run.__name__ = work.__name__
    run.__doc__ = work.__doc__
    return run


@virtual
async def test_jobs_of_an_account_run_in_order_and_are_counted() -> None:
    stage = JobStage()
    for number in range(3):
        stage.store.put(a_job(f"j{number}"))
    async with stage.run():
        await asyncio.sleep(5)
    assert stage.gate.forwarded == ["j0", "j1", "j2"]
    assert stage.store.ended == {"j0": DONE, "j1": DONE, "j2": DONE}
    assert stage.counted == {JobState.DONE: 3}


@virtual
async def test_I9_the_number_of_running_jobs_is_bounded() -> None:
    stage = JobStage(at_once=2)
    for name in "abc":
        stage.store.put(a_job(name, name))
    stage.gate.finish.clear()
    async with stage.run():
        await asyncio.sleep(5)
        assert (len(stage.gate.running), stage.runner.running) == (2, 2)
        stage.gate.finish.set()
        await asyncio.sleep(5)
    assert sorted(stage.gate.forwarded) == ["a", "b", "c"]


@virtual
async def test_a_job_that_does_not_fit_is_requeued_until_its_limit_recovers() -> None:
    stage = JobStage()
    stage.store.put(a_job("soon"))
    stage.store.put(a_job("late", "other"))
    stage.gate.refusals = {"soon": Postponed(7), "late": Postponed(10 * RECHECK_US)}
    async with stage.run():
        await asyncio.sleep(1)
    assert sorted(stage.store.requeued) == ["late", "soon"]
    assert sorted(stage.store.scheduled) == [("acme", 7), ("other", RECHECK_US)]
    assert stage.gate.forwarded == []


@virtual
async def test_a_job_that_is_refused_for_good_ends_and_the_next_one_runs() -> None:
    stage = JobStage()
    stage.store.put(a_job("first"))
    stage.store.put(a_job("second"))
    never = JobOutcome(JobState.FAILED, JobFailure.NEVER_FITS)
    stage.gate.refusals = {"first": never}
    async with stage.run():
        await asyncio.sleep(1)
    assert stage.store.ended == {"first": never, "second": DONE}


@virtual
async def test_an_unreachable_upstream_delays_the_jobs_of_all_accounts() -> None:
    stage = JobStage(at_once=1)
    stage.store.put(a_job("first"))
    stage.gate.outcomes = {"first": Postponed(5 * MICRO)}
    async with stage.run():
        await asyncio.sleep(1)
        assert stage.store.requeued == ["first"]
        stage.gate.outcomes.clear()  # it is reachable again
        stage.store.put(a_job("second", "other"))
        await asyncio.sleep(3)
        assert stage.store.ended == {}
        await asyncio.sleep(3)
    assert stage.store.ended == {"first": DONE, "second": DONE}


@virtual
async def test_an_orphan_that_may_not_run_again_is_lost() -> None:
    stage = JobStage()
    stage.store.put(a_job("j1", delivery="at-most-once"), orphan=True)
    async with stage.run():
        await asyncio.sleep(1)
    assert stage.store.ended == {"j1": JobOutcome(JobState.FAILED, JobFailure.LOST)}
    assert stage.gate.forwarded == []


@virtual
async def test_the_end_of_a_job_is_stored_after_an_outage() -> None:
    stage = JobStage()
    stage.store.put(a_job("j1"))
    stage.gate.finish.clear()
    async with stage.run():
        await asyncio.sleep(1)
        stage.store.down = True
        stage.gate.finish.set()
        await asyncio.sleep(5)
        assert stage.store.ended == {}
        stage.store.down = False
        await asyncio.sleep(5)
    assert stage.store.ended == {"j1": DONE}


@virtual
async def test_a_job_whose_lease_is_lost_is_cancelled_and_not_requeued() -> None:
    stage = JobStage()
    stage.store.put(a_job("j1"))
    stage.store.put(a_job("j2", "other", "at-most-once"))
    stage.gate.finish.clear()
    async with stage.run():
        await asyncio.sleep(1)
        assert stage.gate.running == ["j1", "j2"]
        stage.store.owners |= {"j1/acme": "another", "j2/other": "another"}
        await asyncio.sleep(11)  # a third of the lease
        assert stage.gate.running == []
    assert (stage.store.requeued, stage.store.ended, stage.counted) == ([], {}, {})


@virtual
async def test_a_lease_that_is_lost_before_forwarding_abandons_the_reservation() -> None:
    stage = JobStage()
    stage.store.put(a_job("j1"))

    async def lost(*_args: Any) -> bool:
        return False

    stage.store.renew = lost  # type: ignore[method-assign, assignment]
    async with stage.run():
        await asyncio.sleep(1)
    assert stage.gate.abandoned == ["j1"]
    assert stage.gate.forwarded == []


@virtual
async def test_cancelled_jobs_are_requeued_or_lost_as_their_delivery_says() -> None:
    stage = JobStage()
    stage.store.put(a_job("again", "a"))
    stage.store.put(a_job("once", "b", "at-most-once"))
    stage.gate.finish.clear()
    async with stage.run():
        await asyncio.sleep(1)
        await stage.runner.cancel()
        await asyncio.sleep(5)  # a paused runner starts no job
    assert stage.store.requeued == ["again"]
    assert stage.store.woken == ["a"]
    assert stage.store.ended == {"once": JobOutcome(JobState.FAILED, JobFailure.LOST)}
    assert stage.gate.running == []


@virtual
async def test_a_cancelled_job_that_has_ended_elsewhere_is_not_counted() -> None:
    stage = JobStage()
    stage.store.put(a_job("once", "b", "at-most-once"))
    stage.gate.finish.clear()
    async with stage.run():
        await asyncio.sleep(1)
        stage.store.ended = {"once": DONE}  # the lease was lost, which nothing has noticed yet
        await stage.runner.cancel()
    assert (stage.store.ended, stage.counted) == ({"once": DONE}, {})


@virtual
async def test_a_paused_runner_finishes_its_jobs_and_starts_no_others() -> None:
    stage = JobStage()
    stage.store.put(a_job("running"))
    stage.gate.finish.clear()
    async with stage.run():
        await asyncio.sleep(1)
        stage.runner.pause()
        stage.store.put(a_job("waiting", "other"))
        stage.gate.finish.set()
        await asyncio.sleep(5)
    assert stage.store.ended == {"running": DONE}


@virtual
async def test_changes_wake_their_account_and_plans_wake_all() -> None:
    stage = JobStage()
    stage.store.put(a_job("j1"))
    stage.store.put(a_job("j2", "other"))
    stage.store.due.clear()
    async with stage.run():
        await asyncio.sleep(1)
        assert stage.store.ended == {}
        stage.runner.account_changed("acme")
        await asyncio.sleep(1)
        assert stage.store.ended == {"j1": DONE}
        stage.runner.plans_changed()
        await asyncio.sleep(1)
    assert stage.store.ended == {"j1": DONE, "j2": DONE}


@virtual
async def test_I9_overdue_jobs_expire() -> None:
    stage = JobStage()
    stage.store.overdue = (("j1", "acme"),)
    async with stage.run():
        await asyncio.sleep(1)
    assert stage.store.ended == {"j1": JobOutcome(JobState.FAILED, JobFailure.EXPIRED)}
    assert stage.counted == {JobState.FAILED: 1}


@virtual
async def test_an_overdue_job_that_another_sidecar_ended_is_not_counted() -> None:
    stage = JobStage()
    stage.store.ended = {"j1": DONE}  # by another sidecar
    stage.store.overdue = (("j1", "acme"),)
    async with stage.run():
        await asyncio.sleep(1)
    assert (stage.store.ended, stage.counted) == ({"j1": DONE}, {})


@virtual
async def test_the_end_of_a_job_starts_the_next_one_that_did_not_fit_beside_it() -> None:
    stage = JobStage()
    stage.store.put(a_job("first"))
    stage.store.put(a_job("second"))
    stage.gate.refusals = {"second": Postponed(RECHECK_US)}
    stage.gate.finish.clear()
    async with stage.run():
        await asyncio.sleep(5)
        assert stage.store.requeued == ["second"]
        stage.gate.refusals.clear()
        stage.gate.finish.set()
        await asyncio.sleep(5)
    assert stage.store.ended == {"first": DONE, "second": DONE}


@virtual
async def test_a_stop_while_the_lease_is_renewed_abandons_the_reservation() -> None:
    stage = JobStage()
    stage.store.put(a_job("j1"))

    async def never(*_args: Any) -> bool:
        await asyncio.Event().wait()
        return True

    renew = stage.store.renew
    stage.store.renew = never  # type: ignore[method-assign, assignment]
    async with stage.run():
        await asyncio.sleep(1)
        stage.store.renew = renew  # type: ignore[method-assign]
        await stage.runner.cancel()
    assert (stage.gate.abandoned, stage.store.requeued) == (["j1"], ["j1"])


@virtual
async def test_an_account_without_jobs_is_not_due_again_unless_one_of_them_runs() -> None:
    stage = JobStage()
    stage.store.put(a_job("j1", "busy"))
    stage.store.due |= {"idle"}
    stage.gate.finish.clear()
    async with stage.run():
        await asyncio.sleep(5)
        assert ("idle", None) in stage.store.scheduled
        assert stage.store.scheduled[-1] == ("busy", 30 * MICRO)  # its lease: it may be an orphan
        stage.gate.finish.set()
        await asyncio.sleep(1)


def test_an_outage_of_the_job_queue_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        stage = JobStage()
        async with stage.run():
            for _ in range(2):
                stage.store.down = True
                await asyncio.sleep(30)
                stage.store.down = False
                await asyncio.sleep(30)

    in_virtual_time(run())
    logged = capsys.readouterr().out
    assert logged.count("job_queue_unreachable") == 2
    assert logged.count("job_queue_reachable") == 2
