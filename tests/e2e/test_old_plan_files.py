"""What a plan file leaves behind when another has taken its place: nothing."""

import sys

from tests.support.processes import until
from tests.support.stage import StartStage, plans_text, status


async def test_I9_nothing_is_kept_of_a_plan_file_that_is_not_live_any_more(
    stage: StartStage,
) -> None:
    here = await stage(quota=3)
    assert status(await here.call("GET", "/items")) == 200
    claims = here.app.gate.book.entitlements["free", "rest"].claims
    here.plans.write_text(plans_text(quota=4))
    here.app.reload()
    assert status(await here.call("GET", "/items")) == 200
    nobody_else = 2  # this function, and the one that counts
    await until(lambda: sys.getrefcount(claims) == nobody_else)
