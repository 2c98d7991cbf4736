"""Deadlines of waits with one timer: each at its time, also after many others have left."""

import asyncio
import random

from sidecar.core.model import Account, Key
from sidecar.waiting.deadlines import STALE, Deadlines
from sidecar.waiting.queue import Ticket
from tests.support.virtual_time import in_virtual_time

KEY = Key("k1", Account("acme", "pro"))
END = "timed-out"


def a_ticket(number: int, deadline: float) -> Ticket:
    ticket = Ticket(KEY, (), number, 0, 0.0, deadline)
    ticket.ready = asyncio.get_running_loop().create_future()
    return ticket


def test_each_deadline_is_kept_although_most_waits_have_ended() -> None:
    async def run() -> None:
        loop, deadlines = asyncio.get_running_loop(), Deadlines(END)
        spans = [float(span) for span in range(1, 3 * STALE)]
        random.Random(1).shuffle(spans)
        tickets = [a_ticket(number, span) for number, span in enumerate(spans)]
        for ticket in tickets:
            deadlines.add(ticket, loop)
        left = tickets[-20:]
        for ticket in tickets[:-20]:  # so many that the heap is rebuilt
            deadlines.remove(ticket)
        for ticket in sorted(left, key=lambda one: one.deadline):
            assert await ticket.ready is False
            assert (loop.time(), ticket.end) == (ticket.deadline, END)
            deadlines.remove(ticket)

    in_virtual_time(run())
