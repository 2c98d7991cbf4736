"""What `/readyz` says about the spool."""

from pathlib import Path

import pytest

from sidecar.metering.spool import Spool, WhenFull
from sidecar.serve.readiness import Condition, judge
from tests.support.events import an_event, until


@pytest.mark.parametrize(
    ("when_full", "consequence"),
    [
        ("refuse", "spool: full or not writable; only critical requests are forwarded"),
        (
            "drop",
            "spool: the spool contains {used} of 20000 bytes; "
            "events are dropped once its buffer is full",
        ),
    ],
)
async def test_a_full_spool_is_reported_by_either_policy(
    tmp_path: Path, when_full: WhenFull, consequence: str
) -> None:
    spool = Spool(
        tmp_path, commit_window_s=0.001, retry_s=60, max_bytes=20_000, when_full=when_full
    )
    spool.open()

    def degraded() -> list[str]:
        return judge(
            Condition(
                serving=True, stopping=False, redis=None, redis_was_reachable=True,
                spool_accepts=spool.accepting, spool_problem=spool.problem, missing=0, faults=[],
            )
        ).degraded  # fmt: skip

    assert degraded() == []
    for _ in range(100):
        spool.append(an_event(spool.next_seq))
    await until(lambda: spool.problem is not None)
    assert degraded() == [consequence.format(used=spool.bytes_on_disk)]
    await spool.close()
