"""`OPTIONS *` asks about the server as a whole (RFC 9110, section 9.3.7): a route of its own."""

from tests.support.stage import StartStage, problem, status

ASK = b"OPTIONS * HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\n\r\n"


async def test_it_is_forwarded_as_it_is_where_a_route_says_so(stage: StartStage) -> None:
    here = await stage()
    text = here.plans.read_text()
    route = '  - {id: ping, match: "OPTIONS *", cost: {}}\n'
    here.plans.write_text(text.replace("routes:\n", f"routes:\n{route}"))
    assert await here.app.keeper.reload()
    assert status(await here.raw(ASK)) == 200
    assert here.upstream.received.startswith(b"OPTIONS * HTTP/1.1\r\n")
    [event] = await here.events()
    assert event["data"]["route"] == "ping"


async def test_no_other_route_takes_it(stage: StartStage) -> None:
    here = await stage()
    answer = await here.raw(ASK)
    assert status(answer) == 404
    assert problem(answer)["type"].endswith("no-route")
    assert here.upstream.received == b""
