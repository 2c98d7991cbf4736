"""wait: a request that does not fit waits for its turn, and leaves the queue in every case."""

import asyncio

import pytest

from sidecar.core.identity import key_digest
from sidecar.core.kinds import MICRO, ConcurrencyLimit
from sidecar.core.reasons import Reason
from sidecar.gate import Admission, Refused
from sidecar.waiting.room import WaitingRoom
from tests.support.builders import SECRET, a_book, a_plan, a_request
from tests.support.gate_stage import GateStage, an_outcome
from tests.support.virtual_time import in_virtual_time

ONE_SLOT = ConcurrencyLimit("in-flight", 1, max_wait_us=5 * MICRO)


def stage_with_room(limit: ConcurrencyLimit = ONE_SLOT) -> tuple[GateStage, WaitingRoom]:
    room = WaitingRoom(max_requests=10, max_bytes=1_000)
    return GateStage(a_book(a_plan(limit)), room=room), room


async def waiting(room: WaitingRoom, number: int) -> None:
    while room.waiting != number:
        await asyncio.sleep(0)


async def test_a_request_waits_until_a_settlement_frees_a_slot() -> None:
    stage, room = stage_with_room()
    first = await stage.allowed()
    request = a_request()
    second = asyncio.create_task(stage.admit(request))
    await waiting(room, 1)
    assert request.waiting
    stage.gate.settle(first, an_outcome())
    admission = await second
    assert isinstance(admission, Admission)
    assert admission.queued_us > 0
    assert (request.waiting, room.waiting, await stage.used()) == (False, 0, (1,))


async def test_a_client_with_less_patience_is_refused_at_once() -> None:
    stage, room = stage_with_room()
    await stage.allowed()
    refused = await stage.refused(a_request(patience_us=1))
    assert (refused.refusal.reason, room.waiting) == (Reason.CONCURRENCY, 0)


async def test_a_job_does_not_wait_in_the_room() -> None:
    stage, room = stage_with_room()
    await stage.allowed()
    refused = await stage.admit(job_of=key_digest(SECRET))
    assert isinstance(refused, Refused)
    assert room.waiting == 0


async def test_a_shutdown_ends_waits_and_says_so() -> None:
    stage, room = stage_with_room()
    await stage.allowed()
    waiter = asyncio.create_task(stage.admit())
    await waiting(room, 1)
    room.close()
    refused = await waiter
    assert isinstance(refused, Refused)
    assert (refused.refusal.status, refused.refusal.reason) == (503, Reason.DRAINING)
    assert b"X-Queued-Ms" in dict(refused.refusal.headers)


async def test_a_cancelled_request_leaves_its_queue() -> None:
    stage, room = stage_with_room()
    await stage.allowed()
    request = a_request()
    waiter = asyncio.create_task(stage.admit(request))
    await waiting(room, 1)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (room.waiting, request.waiting, stage.shedder.in_flight) == (0, False, 1)


def test_a_settlement_starts_the_next_try_at_once() -> None:
    async def run() -> None:
        stage, room = stage_with_room()
        first = await stage.allowed()
        second = asyncio.create_task(stage.admit())
        await waiting(room, 1)
        now = asyncio.get_running_loop().time()
        stage.gate.settle(first, an_outcome())
        assert isinstance(await second, Admission)
        assert asyncio.get_running_loop().time() == now

    in_virtual_time(run())


async def test_requests_that_wait_do_not_stop_a_job() -> None:
    stage, room = stage_with_room()
    first = await stage.allowed()
    waiter = asyncio.create_task(stage.admit())
    await waiting(room, 1)
    claims = first.entitlement.claims  # freed by another sidecar: the room does not know it
    stage.store.settle(first.key.account, first.key.id, claims, first.request_id)
    job = await stage.admit(job_of=key_digest(SECRET))
    assert isinstance(job, Admission)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)


async def test_the_bytes_of_waiting_requests_are_bounded() -> None:
    stage, room = stage_with_room()  # 1,000 bytes, of which one account gets half
    await stage.allowed()
    waiter = asyncio.create_task(stage.admit(a_request(size=400)))
    await waiting(room, 1)
    assert room.bytes == 400
    assert (await stage.refused(a_request(size=400))).refusal.reason == Reason.CONCURRENCY
    room.close()
    await waiter
