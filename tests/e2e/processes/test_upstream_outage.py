"""An API that refuses connections, starts, and hangs: logged once, not per request."""

import asyncio

from tests.support.processes import StartServing
from tests.support.servers import free_port
from tests.support.stage import Upstream


async def test_the_log_says_when_the_api_is_unreachable_and_reachable_again(
    serving: StartServing,
) -> None:
    port = free_port()
    here = await serving(upstream=f"http://127.0.0.1:{port}", response_timeout_s=0.3)
    assert [(await here.call("/items"))[0] for _ in range(4)] == [502] * 4
    [down] = here.said("upstream_unreachable")
    assert (down["level"], down["upstream"]) == ("error", f"127.0.0.1:{port}")
    assert "refused" in down["error"].lower()
    api = Upstream()
    server = await asyncio.start_server(api.serve, "127.0.0.1", port)
    try:
        assert (await here.call("/items"))[0] == 200
        [back] = here.said("upstream_reachable")
        assert (back["failed_attempts"], back["upstream"]) == (4, f"127.0.0.1:{port}")
        api.hold = True
        assert [(await here.call("/items"))[0] for _ in range(3)] == [504] * 3
        [slow] = here.said("upstream_no_response")  # the next ones are logged later, as a sum
        assert (slow["level"], slow["requests"]) == ("warning", 1)
        assert slow["error"] == "The API did not respond in time."
        assert len(here.said("upstream_unreachable")) == 1
    finally:
        server.close()
