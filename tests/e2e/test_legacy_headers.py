"""--legacy-headers: the X-RateLimit-* fields in addition to the draft's fields."""

import re
import time

from tests.support.stage import StartStage, status

LEGACY = re.compile(rb"^(X-RateLimit-\w+): (\d+)\r$", re.MULTILINE)
RESET_IN = re.compile(rb'^RateLimit: "monthly";r=\d+;t=(\d+)\r$', re.MULTILINE)


async def test_an_allowed_response_has_legacy_fields_of_the_tightest_limit(
    stage: StartStage,
) -> None:
    here = await stage(quota=10, legacy_headers=True)
    for left in (9, 8):
        before = int(time.time())
        answer = await here.call("GET", "/items")
        after = int(time.time()) + 1
        fields = dict(LEGACY.findall(answer))
        assert sorted(fields) == [
            b"X-RateLimit-Limit", b"X-RateLimit-Remaining", b"X-RateLimit-Reset",
        ]  # fmt: skip
        assert (fields[b"X-RateLimit-Limit"], int(fields[b"X-RateLimit-Remaining"])) == (
            b"10",
            left,
        )
        wait = RESET_IN.search(answer)
        assert wait is not None
        # Reset is the same time as the draft's t, in seconds since the epoch.
        assert before <= int(fields[b"X-RateLimit-Reset"]) - int(wait[1]) <= after


async def test_a_request_without_claims_has_no_legacy_fields(stage: StartStage) -> None:
    here = await stage(legacy_headers=True)
    answer = await here.call("GET", "/status")
    assert (status(answer), LEGACY.findall(answer)) == (200, [])


async def test_without_the_option_there_are_no_legacy_fields(stage: StartStage) -> None:
    here = await stage()
    answer = await here.call("GET", "/items")
    assert b"\r\nRateLimit: " in answer
    assert LEGACY.findall(answer) == []


async def test_a_refusal_has_the_drafts_fields_of_the_refusing_limit(
    stage: StartStage,
) -> None:
    here = await stage(quota=1, legacy_headers=True)
    assert status(await here.call("GET", "/items")) == 200
    refused = await here.call("GET", "/items")
    assert status(refused) == 429
    assert b'\r\nRateLimit-Policy: "monthly";q=1;w=2592000\r\n' in refused
    assert b'\r\nRateLimit: "monthly";r=0;t=' in refused
