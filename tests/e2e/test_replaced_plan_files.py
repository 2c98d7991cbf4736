"""A replaced plan file leaves nothing in memory."""

import sys

from tests.support.processes import until
from tests.support.stage import StartStage, plans_text, status


async def test_I9_a_replaced_plan_file_leaves_nothing_in_memory(
    stage: StartStage,
) -> None:
    here = await stage(quota=3)
    assert status(await here.call("GET", "/items")) == 200
    claims = here.app.gate.book.entitlements["free", "rest"].claims
    here.plans.write_text(plans_text(quota=4))
    here.app.reload()
    assert status(await here.call("GET", "/items")) == 200
    nobody_else = 2  # this function, and `sys.getrefcount`
    await until(lambda: sys.getrefcount(claims) == nobody_else)
