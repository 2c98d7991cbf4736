"""The example in docs/reference/headers.md is the answer for the limit that it names."""

import re
from pathlib import Path

from tests.support.stage import StartStage

DOCS = (Path(__file__).parents[2] / "docs" / "reference" / "headers.md").read_text()
EXAMPLE = re.compile(r"^    (RateLimit(?:-Policy)?: .*)$", re.MULTILINE)
QUOTA = re.compile(r"quota: \d+/month, at: \{.*?\}")


async def test_the_example_is_the_answer_to_the_first_request_of_a_rate_with_a_burst(
    stage: StartStage,
) -> None:
    policy, standing = EXAMPLE.findall(DOCS)
    found = re.search(r"`(rate: [^`]*burst: \d+)`, after one request", DOCS)
    assert found is not None
    here = await stage(legacy_headers=True)
    text = here.plans.read_text().replace("id: monthly,", "id: per-second,")
    here.plans.write_text(QUOTA.sub(found[1], text))
    assert await here.app.keeper.reload()
    lines = (await here.call("GET", "/items")).decode().split("\r\n")
    assert policy in lines
    assert standing in lines
    _, left = standing.split("r=")
    assert f"X-RateLimit-Remaining: {left.partition(';')[0]}" in lines
    burst = found[1].rpartition(" ")[2]
    assert f"X-RateLimit-Limit: {burst}" in lines
